"""LlamaIndex's messages as the core's: roles, content, tool calls and earlier reasoning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from glimp_integrations.errors import ConfigError

__all__ = ["INVALID", "calls_of", "to_messages"]

INVALID = "invalid_tool_calls"
"""The key of a message's ``additional_kwargs`` for text that was meant as a call and is not one."""

_RESULTS = (MessageRole.TOOL, MessageRole.FUNCTION)
_ROLES = {
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def to_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """LlamaIndex messages as dictionaries of role, content, tool calls and ``reasoning_content``.

    Blocks that are not text are passed on by their type's name, so that the core can name in its
    error what it cannot read.

    Raises:
        ConfigError: The arguments of a tool call cannot be written as JSON.
    """
    answered = {m.additional_kwargs.get("tool_call_id") for m in messages if m.role in _RESULTS}
    return [_to_message(index, message, answered) for index, message in enumerate(messages)]


def _to_message(index: int, message: ChatMessage, answered: set[Any]) -> dict[str, Any]:
    """One message.

    Args:
        index: Its number, for the error.
        message: The message.
        answered: Ids of all calls that the conversation holds a result of.
    """
    converted: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role.value),
        "content": _content(message.blocks),
    }
    try:
        calls = calls_of(message)
    except TypeError as error:
        names = [b.tool_name for b in message.blocks if isinstance(b, ToolCallBlock)]
        raise ConfigError(
            f"message {index} holds a call of {', '.join(names)} whose arguments JSON cannot "
            f"write: {error}"
        ) from None
    # An agent answers an invalid call with an error message. The model can only make sense of that
    # message if it sees what it wrote.
    invalid_calls = message.additional_kwargs.get(INVALID, ())
    for call in (call for call in invalid_calls if call["id"] in answered):
        if call["name"] is None:
            converted["content"] = "\n".join(filter(None, (converted["content"], call["text"])))
        else:
            calls.append(_call(call["id"], call["name"], call["text"]))
    if calls:
        converted["tool_calls"] = calls
    if reasoning := _reasoning(message):
        converted["reasoning_content"] = reasoning
    for name in ("tool_call_id", "name"):
        if name in message.additional_kwargs and (name == "name" or converted["role"] == "tool"):
            converted[name] = message.additional_kwargs[name]
    return converted


def _content(blocks: Iterable[ContentBlock]) -> str | list[Any]:
    """The blocks' text, joined as ``ChatMessage.content`` joins it.

    If some blocks are not text, the types of these instead.
    """
    texts: list[str] = []
    others: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, CitableBlock | CitationBlock):
            # The text that is cited is read like any other text.
            inner = _content(block.nested_blocks)  # type: ignore[arg-type]
            others.extend(inner) if isinstance(inner, list) else texts.append(inner)
        elif not isinstance(block, ThinkingBlock | ToolCallBlock | CachePoint):
            others.append({"type": block.block_type})
    return others or "\n".join(texts)


def _reasoning(message: ChatMessage) -> str:
    """The reasoning that a message carries; the setting ``keep_reasoning`` decides who reads it."""
    blocks = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    # Older integrations keep it in additional_kwargs, Ollama's under the name "thinking".
    older = [message.additional_kwargs.get(name) for name in ("reasoning_content", "thinking")]
    for candidates in (blocks, older[:1], older[1:]):
        if texts := [text for text in candidates if isinstance(text, str) and text.strip()]:
            return "\n\n".join(texts)
    return ""


def calls_of(message: ChatMessage) -> list[dict[str, Any]]:
    """A message's tool calls in OpenAI's format, from its blocks.

    If there are no such blocks, the calls are taken from where older integrations kept them.

    Raises:
        TypeError: The arguments of a call cannot be written as JSON.
    """
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not blocks:
        older = message.additional_kwargs.get("tool_calls") or ()
        return [call.model_dump() if isinstance(call, BaseModel) else call for call in older]
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
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
