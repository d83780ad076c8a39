"""The core's results and events as LlamaIndex's responses, complete and while they are written."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from glimp_integrations.adapter import RECORD, finish_reason, record, token_usage
from glimp_integrations.trace.events import Event, Finished, KindResolved, TextDelta, ToolCallDelta
from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp._messages import INVALID, calls_of

__all__ = ["StreamedReply", "as_completion", "to_chat_response"]

_log = logging.getLogger(__name__)


def to_chat_response(result: RoutedAnswer, model: str) -> ChatResponse:
    """A complete reply.

    Args:
        result: The core's result.
        model: The model's name for ``raw``.

    Returns:
        The response. Its ``raw`` holds the usage and the record of who wrote what.
    """
    usage = token_usage(result.usage)
    calls = [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
        for call in result.tool_calls
    ]
    message = _message(result.reasoning, result.answer, calls, usage["reasoning_tokens"])
    if result.invalid_tool_calls:
        message.additional_kwargs[INVALID] = [c.model_dump() for c in result.invalid_tool_calls]
        for call in result.invalid_tool_calls:
            _log.warning("the model meant to call a tool (%s): %s", call.name, call.error)
    return ChatResponse(
        message=message,
        raw={
            "model": model,
            "finish_reason": finish_reason(result),
            "usage": usage,
            RECORD: record(result),
        },
        additional_kwargs={
            name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        },
    )


def _message(
    reasoning: str, answer: str, calls: Iterable[ToolCallBlock], reasoning_tokens: int | None = None
) -> ChatMessage:
    """An assistant's message: the reasoning's block, if any, then the answer and the calls."""
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning, num_tokens=reasoning_tokens))
    blocks += [TextBlock(text=answer), *calls]
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    if openai_calls := calls_of(message):
        # LlamaIndex's programs look for calls here while a reply is streamed.
        message.additional_kwargs["tool_calls"] = openai_calls
    return message


def as_completion(response: ChatResponse) -> CompletionResponse:
    """A chat response as a completion, whose text is the answer.

    The reasoning is in ``additional_kwargs`` once the reply is complete.
    """
    kwargs = dict(response.additional_kwargs)
    first = response.message.blocks[0]
    if response.raw is not None and isinstance(first, ThinkingBlock):
        kwargs["reasoning_content"] = first.content
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=kwargs,
    )


class StreamedReply:
    """A reply while it is written: turns the core's events into LlamaIndex's cumulative responses.

    Args:
        model: The model's name for ``raw``.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._reasoning = ""
        self._answer = ""
        self._calls: dict[int, ToolCallBlock] = {}

    def add(self, event: Event) -> ChatResponse | None:
        """The reply so far; ``None`` if the event adds nothing to it."""
        if isinstance(event, Finished):
            response = to_chat_response(event.result, self._model)
            response.delta = ""
            return response
        if isinstance(event, ToolCallDelta):
            return self._response("") if self._add_call(event) else None
        # Text that may be reasoning or answer has no kind yet. It comes again as KindResolved.
        if not isinstance(event, TextDelta | KindResolved) or event.kind is None:
            return None
        if event.kind == "answer":
            self._answer += event.text
            return self._response(event.text)
        self._reasoning += event.text
        return self._response("", thinking_delta=event.text)

    def _add_call(self, delta: ToolCallDelta) -> bool:
        """Add a part of a call.

        Returns:
            Whether it belongs to a call. Text that was meant as a call and has no name does not; it
            is in the complete reply only.
        """
        if delta.id is not None and delta.name is not None:
            self._calls[delta.index] = ToolCallBlock(
                tool_call_id=delta.id, tool_name=delta.name, tool_kwargs=delta.arguments
            )
        elif delta.index in self._calls:
            block = self._calls[delta.index]
            arguments = f"{block.tool_kwargs}{delta.arguments}"
            # A new block, because responses that were given out must not change.
            self._calls[delta.index] = block.model_copy(update={"tool_kwargs": arguments})
        else:
            return False
        return True

    def _response(self, delta: str, **kwargs: Any) -> ChatResponse:
        return ChatResponse(
            message=_message(self._reasoning, self._answer, self._calls.values()),
            delta=delta,
            additional_kwargs=kwargs,
        )
