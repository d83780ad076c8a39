"""LangChain's messages as the core's: roles, content, tool calls and earlier reasoning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    convert_to_openai_messages,
)

from glimp_integrations.conversation.content_blocks import each_once, read_blocks

__all__ = ["reasoning_in", "text_of", "to_messages"]


def to_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain messages as dictionaries of role, content, tool calls and ``reasoning_content``.

    Content blocks are passed on as they are. The core reads the blocks of all providers, leaves out
    what is private to one of them, and names in its error what it cannot read.
    """
    return [_with_reasoning(_to_message(message), reasoning_in(message)) for message in messages]


def _with_reasoning(message: dict[str, Any], reasoning: str) -> dict[str, Any]:
    """Add earlier reasoning; ``keep_reasoning`` and the models' templates decide who reads it."""
    return {**message, "reasoning_content": reasoning} if reasoning else message


def _to_message(message: BaseMessage) -> dict[str, Any]:
    content: Any = message.content
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": content}
    # LangChain's own conversion gives role, name and ids. It fails on some content and calls that
    # the core can read, so it gets a copy without them.
    emptied: dict[str, Any] = {"content": ""}
    if isinstance(message, AIMessage):
        emptied |= {"additional_kwargs": {}, "tool_calls": []}
    outline: Any = convert_to_openai_messages(message.model_copy(update=emptied))
    if isinstance(message, FunctionMessage):
        outline["role"] = "tool"
    converted = {**outline, "content": content}
    if isinstance(message, AIMessage):
        return {**converted, **_assistant_fields(message)}
    return converted


def _assistant_fields(message: AIMessage) -> dict[str, Any]:
    """Content, calls and refusal of a model's message, with broken calls and older fields."""
    blocks: list[Any] = [message.content] if isinstance(message.content, str) else message.content
    if message.invalid_tool_calls:
        blocks = [b for b in blocks if isinstance(b, str) or b.get("type") != "invalid_tool_call"]
    broken = ({**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls)
    blocks = [*blocks, *broken]
    function_call = message.additional_kwargs.get("function_call")  # before there were tools
    if isinstance(function_call, Mapping):
        blocks = [*blocks, {**function_call, "type": "function_call"}]
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["args"]},
        }
        for call in message.tool_calls
    ]
    fields: dict[str, Any] = {"content": blocks}
    if calls:
        fields["tool_calls"] = calls
    if refusal := message.additional_kwargs.get("refusal"):
        fields["refusal"] = refusal
    return fields


def reasoning_in(message: BaseMessage) -> str:
    """The reasoning that an assistant's message carries as text, else an empty text.

    This package, DeepSeek, Groq, Ollama and xAI keep it as a text in ``additional_kwargs``. Other
    providers keep it in content blocks: Anthropic and Google (``thinking``), Bedrock
    (``reasoning_content``), OpenAI (summaries), and LangChain's standard blocks (``reasoning``).
    Encrypted or redacted reasoning has no text.
    """
    if not isinstance(message, AIMessage | ChatMessage):
        return ""
    reasoning = message.additional_kwargs.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip():
        return reasoning  # if there are standard blocks as well, they hold the same
    blocks = message.content if isinstance(message.content, list) else []
    # In LangChain 0.3, OpenAI's summaries were kept here.
    older = message.additional_kwargs.get("reasoning")
    texts = [text for block in [older, *blocks] for text in _reasoning_texts(block) if text.strip()]
    return "\n\n".join(texts)


def _reasoning_texts(block: Any) -> Iterator[str]:
    if not isinstance(block, dict):
        return
    inner = block.get("reasoning_content")
    candidates = [
        block.get("reasoning") if block.get("type") == "reasoning" else None,
        block.get("thinking") if block.get("type") == "thinking" else None,
        inner.get("text") if isinstance(inner, dict) else None,
        *(part.get("text") for part in block.get("summary") or () if isinstance(part, dict)),
    ]
    yield from (text for text in candidates if isinstance(text, str))


def text_of(message: dict[str, Any]) -> str:
    """All words of a converted message, with those of its tool calls, for counting tokens."""
    content = message["content"]
    blocks = [content] if isinstance(content, str) else content
    contents = read_blocks("a message", message["role"], blocks, strict=False)
    calls = [
        call["function"] for call in each_once(message.get("tool_calls") or (), contents.calls)
    ]
    words = (f"{call['name']} {json.dumps(call['arguments'], default=str)}" for call in calls)
    return " ".join([contents.text, *words])
