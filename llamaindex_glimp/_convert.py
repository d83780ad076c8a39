"""Between LlamaIndex's messages and the core's: both directions, whole and growing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from glimp_integrations.adapter import RECORD, finish_reason, record, token_usage
from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.events import Event, Finished, KindResolved, TextDelta, ToolCallDelta
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["INVALID", "Growing", "as_completion", "to_chat_response", "to_messages"]

INVALID = "invalid_tool_calls"
"""Where a message keeps what was meant as tool calls and is none."""

_log = logging.getLogger(__name__)

_RESULTS = (MessageRole.TOOL, MessageRole.FUNCTION)
_ROLES = {
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def to_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """LlamaIndex messages as role, content, tool calls and ``reasoning_content``.

    Blocks that are no text are passed on, so that the core can name what it cannot read.
    """
    answered = {m.additional_kwargs.get("tool_call_id") for m in messages if m.role in _RESULTS}
    return [_to_message(index, message, answered) for index, message in enumerate(messages)]


def _to_message(index: int, message: ChatMessage, answered: set[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role.value),
        "content": _content(message.blocks),
    }
    try:
        calls = _calls(message)
    except TypeError as error:
        names = [b.tool_name for b in message.blocks if isinstance(b, ToolCallBlock)]
        raise ConfigError(
            f"message {index} holds a call of {', '.join(names)} whose arguments JSON cannot "
            f"write: {error}"
        ) from None
    # An agent has told the model that it cannot read these: the model sees what is meant.
    told = message.additional_kwargs.get(INVALID, ())
    for call in (call for call in told if call["id"] in answered):
        if call["name"] is None:
            found["content"] = "\n".join(filter(None, (found["content"], call["text"])))
        else:
            calls.append(_call(call["id"], call["name"], call["text"]))
    if calls:
        found["tool_calls"] = calls
    if reasoning := _reasoning(message):
        found["reasoning_content"] = reasoning
    for name in ("tool_call_id", "name"):
        if name in message.additional_kwargs and (name == "name" or found["role"] == "tool"):
            found[name] = message.additional_kwargs[name]
    return found


def _content(blocks: Iterable[ContentBlock]) -> str | list[Any]:
    """Text joined as ``ChatMessage.content`` joins it, or the blocks if some are no text."""
    texts: list[str] = []
    strange: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, CitableBlock | CitationBlock):
            # What is cited is text to read, like any other; other content names itself.
            inner = _content(block.nested_blocks)  # type: ignore[arg-type]
            strange.extend(inner) if isinstance(inner, list) else texts.append(inner)
        elif not isinstance(block, ThinkingBlock | ToolCallBlock | CachePoint):
            strange.append({"type": block.block_type})
    return strange or "\n".join(texts)


def _reasoning(message: ChatMessage) -> str:
    """The chain of thought behind a message; the setting ``keep_reasoning`` decides about it."""
    blocks = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    # Older integrations keep it beside the blocks; Ollama's calls it thinking.
    older = [message.additional_kwargs.get(name) for name in ("reasoning_content", "thinking")]
    for texts in (blocks, older[:1], older[1:]):
        if told := [text for text in texts if isinstance(text, str) and text.strip()]:
            return "\n\n".join(told)
    return ""


def _calls(message: ChatMessage) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's format: from blocks, else as older integrations kept them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not blocks:
        old = message.additional_kwargs.get("tool_calls") or ()
        return [call.model_dump() if isinstance(call, BaseModel) else call for call in old]
    return [
        _call(
            block.tool_call_id,
            block.tool_name,
            block.tool_kwargs
            if isinstance(block.tool_kwargs, str)
            else json.dumps(block.tool_kwargs, ensure_ascii=False),
        )
        for block in blocks
    ]


def _call(call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in OpenAI's format."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def to_chat_response(result: RoutedAnswer, model: str) -> ChatResponse:
    """The whole reply; ``raw`` tells usage and who wrote what."""
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
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning, num_tokens=reasoning_tokens))
    blocks += [TextBlock(text=answer), *calls]
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    if told := _calls(message):
        # Where LlamaIndex's programs look for calls in a stream.
        message.additional_kwargs["tool_calls"] = told
    return message


def as_completion(response: ChatResponse) -> CompletionResponse:
    """A reply as text; the chain of thought is beside it, once it is whole."""
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


class Growing:
    """A reply while it is written: from the core's events to cumulative responses.

    Args:
        model: Its name, for ``raw``.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._reasoning = ""
        self._answer = ""
        self._calls: dict[int, ToolCallBlock] = {}

    def add(self, event: Event) -> ChatResponse | None:
        """The reply so far; ``None`` where nothing of it is new."""
        if isinstance(event, Finished):
            whole = to_chat_response(event.result, self._model)
            whole.delta = ""
            return whole
        if isinstance(event, ToolCallDelta):
            return self._response("") if self._add_call(event) else None
        # Text whose kind is still open comes again as Settled.
        if not isinstance(event, TextDelta | KindResolved) or event.kind is None:
            return None
        if event.kind == "answer":
            self._answer += event.text
            return self._response(event.text)
        self._reasoning += event.text
        return self._response("", thinking_delta=event.text)

    def _add_call(self, delta: ToolCallDelta) -> bool:
        """Whether it belongs to a call: what is broken from the start is told of at the end."""
        if delta.id is not None and delta.name is not None:
            self._calls[delta.index] = ToolCallBlock(
                tool_call_id=delta.id, tool_name=delta.name, tool_kwargs=delta.arguments
            )
        elif delta.index in self._calls:
            block = self._calls[delta.index]
            written = f"{block.tool_kwargs}{delta.arguments}"
            # Another block: responses that are out already stay as they were.
            self._calls[delta.index] = block.model_copy(update={"tool_kwargs": written})
        else:
            return False
        return True

    def _response(self, delta: str, **kwargs: Any) -> ChatResponse:
        return ChatResponse(
            message=_message(self._reasoning, self._answer, self._calls.values()),
            delta=delta,
            additional_kwargs=kwargs,
        )
