"""Between LangChain's messages and the core's: both directions, for chat and text alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    ToolCallChunk,
    convert_to_openai_messages,
)
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
from glimp_integrations.conversation.content_blocks import each_once, read_blocks
from glimp_integrations.trace.events import ToolCallDelta
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import RoutedAnswer
from langchain_glimp._reasoning import reasoning_in

__all__ = [
    "PROVIDER",
    "call_chunk",
    "calls_of",
    "metadata_of",
    "reasoning_of",
    "spoilers",
    "text_of",
    "to_messages",
    "usage_of",
]

PROVIDER = "glimprouter"

# A stream's blocks are told apart by index, and LangChain counts those of text and reasoning from 0
# up, with every change of kind: calls stand where that count never comes.
_BEFORE_CALLS = 1_000_000


def to_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain messages as role, content, tool calls and ``reasoning_content``.

    Blocks are passed on as they are: the core reads those of all providers, leaves out what is
    private to one of them, and names what it cannot read.
    """
    return [_with_reasoning(_to_message(message), reasoning_in(message)) for message in messages]


def _with_reasoning(found: dict[str, Any], reasoning: str) -> dict[str, Any]:
    """The setting ``keep_reasoning`` and the models' templates decide what becomes of it."""
    return {**found, "reasoning_content": reasoning} if reasoning else found


def _to_message(message: BaseMessage) -> dict[str, Any]:
    content: Any = message.content
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": content}
    plain: dict[str, Any] = {"content": ""}
    if isinstance(message, AIMessage):
        plain |= {"additional_kwargs": {}, "tool_calls": []}
    # Only for role, name and ids.
    outline: Any = convert_to_openai_messages(message.model_copy(update=plain))
    if isinstance(message, FunctionMessage):
        outline["role"] = "tool"
    found = {**outline, "content": content}
    return {**found, **_said(message)} if isinstance(message, AIMessage) else found


def _said(message: AIMessage) -> dict[str, Any]:
    """Content, calls and refusal of a model's message, broken calls and older fields included."""
    blocks: list[Any] = [message.content] if isinstance(message.content, str) else message.content
    if message.invalid_tool_calls:
        blocks = [b for b in blocks if isinstance(b, str) or b.get("type") != "invalid_tool_call"]
    broken = ({**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls)
    blocks = [*blocks, *broken]
    old = message.additional_kwargs.get("function_call")
    if isinstance(old, Mapping):
        blocks = [*blocks, {**old, "type": "function_call"}]
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["args"]},
        }
        for call in message.tool_calls
    ]
    found: dict[str, Any] = {"content": blocks}
    if calls:
        found["tool_calls"] = calls
    if refusal := message.additional_kwargs.get("refusal"):
        found["refusal"] = refusal
    return found


def usage_of(usage: Usage) -> UsageMetadata:
    """Tokens of every request of the call, both models, cancelled and discarded ones included."""
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def reasoning_of(text: str) -> dict[str, Any]:
    """``additional_kwargs`` holding reasoning; LangChain shows it as a reasoning block."""
    return {"reasoning_content": text} if text else {}


def calls_of(result: RoutedAnswer) -> dict[str, Any]:
    """Fields of an ``AIMessage``: its tool calls, and what was meant as some."""
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
    """A piece of a call."""
    arguments = delta.arguments
    if delta.id is not None and delta.name is None:
        # No call at all: what stands here must never be taken for arguments.
        arguments = f"no call: {arguments}"
    return create_tool_call_chunk(
        name=delta.name, args=arguments, id=delta.id, index=_BEFORE_CALLS + delta.index
    )


def spoilers(result: RoutedAnswer) -> list[ToolCallChunk]:
    """Last pieces of calls whose arguments are broken.

    LangChain completes broken JSON when it adds chunks up, and an agent would execute the result.
    Behind a bracket that closes nothing there is nothing to complete.
    """
    return [
        create_tool_call_chunk(
            name=None, args=_spoiler(call.text), id=None, index=_BEFORE_CALLS + call.index
        )
        for call in result.invalid_tool_calls
        if call.name is not None
    ]


def _spoiler(text: str) -> str:
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
    return (" " if escaped else "") + ('"' if in_string else "") + wrong


def text_of(message: dict[str, Any]) -> str:
    """All words of a message, those of its tool calls included."""
    content = message["content"]
    blocks = [content] if isinstance(content, str) else content
    said = read_blocks("a message", message["role"], blocks, strict=False)
    calls = [call["function"] for call in each_once(message.get("tool_calls") or (), said.calls)]
    words = (f"{call['name']} {json.dumps(call['arguments'], default=str)}" for call in calls)
    return " ".join([said.text, *words])


def metadata_of(result: RoutedAnswer, model_name: str) -> dict[str, Any]:
    """``response_metadata``: the same keys, streamed or not."""
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": finish_reason(result),
        RECORD: record(result),
    }
