"""The core's results as parts of LangChain's messages, generations and chunks."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import ToolCallChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import (
    invalid_tool_call as create_invalid_tool_call,
)
from langchain_core.messages.tool import (
    tool_call as create_tool_call,
)
from langchain_core.messages.tool import (
    tool_call_chunk as create_tool_call_chunk,
)

from glimp_integrations.adapter import RECORD, finish_reason, record
from glimp_integrations.trace.events import ToolCallDelta
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = [
    "PROVIDER",
    "call_chunk",
    "calls_of",
    "invalid_json_markers",
    "metadata_of",
    "reasoning_of",
    "usage_of",
]

PROVIDER = "glimprouter"
"""The provider's name in metadata and traces."""

# The first index of a tool call's chunks. LangChain merges the blocks of a stream by their index.
# It gives text and reasoning blocks the indices 0, 1, 2, ..., one more with every change between
# the two, so calls need indices that this count does not reach.
_FIRST_CALL_INDEX = 1_000_000


def usage_of(usage: Usage) -> UsageMetadata:
    """Tokens of all requests of a call, to both models, with cancelled and discarded ones."""
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def reasoning_of(text: str) -> dict[str, Any]:
    """``additional_kwargs`` that hold reasoning; LangChain shows it as a reasoning block."""
    return {"reasoning_content": text} if text else {}


def calls_of(result: RoutedAnswer) -> dict[str, Any]:
    """The fields of an ``AIMessage`` for its tool calls, valid and invalid."""
    return {
        "tool_calls": [
            create_tool_call(name=call.name, args=call.arguments, id=call.id)
            for call in result.tool_calls
        ],
        "invalid_tool_calls": [
            create_invalid_tool_call(name=call.name, args=call.text, id=call.id, error=call.error)
            for call in result.invalid_tool_calls
        ],
    }


def call_chunk(delta: ToolCallDelta) -> ToolCallChunk:
    """A part of a tool call as a chunk that LangChain adds to the call's other chunks."""
    arguments = delta.arguments
    if delta.id is not None and delta.name is None:
        # The text cannot be read as a call at all. LangChain must never take it for arguments.
        arguments = f"not a tool call: {arguments}"
    return create_tool_call_chunk(
        name=delta.name, args=arguments, id=delta.id, index=_FIRST_CALL_INDEX + delta.index
    )


def invalid_json_markers(result: RoutedAnswer) -> list[ToolCallChunk]:
    """Last chunks of the calls whose arguments are broken JSON, so that they stay broken.

    When LangChain adds up chunks, it completes JSON that is not finished, and an agent would run
    the call with the completed arguments. Each of these chunks appends a closing bracket that
    matches no open one. With it, LangChain's partial JSON parser fails, and the call is invalid in
    the stream's sum as it is in the result of ``invoke``.
    """
    return [
        create_tool_call_chunk(
            name=None,
            args=_unmatched_bracket(call.text),
            id=None,
            index=_FIRST_CALL_INDEX + call.index,
        )
        for call in result.invalid_tool_calls
        if call.name is not None
    ]


def _unmatched_bracket(text: str) -> str:
    """What makes the text invalid JSON: the end of an open string, and a bracket of the wrong kind.

    Args:
        text: JSON that may end anywhere.
    """
    open_brackets: list[str] = []
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_brackets.append(character)
        elif character in "}]" and open_brackets:
            open_brackets.pop()
    wrong = "}" if open_brackets[-1:] == ["["] else "]"
    # A space completes an escape, so that the quotation mark after it ends the string.
    return (" " if escaped else "") + ('"' if in_string else "") + wrong


def metadata_of(result: RoutedAnswer, model_name: str) -> dict[str, Any]:
    """``response_metadata``, with the same keys whether the reply was streamed or not."""
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": finish_reason(result),
        RECORD: record(result),
    }
