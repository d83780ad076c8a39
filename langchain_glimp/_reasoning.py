"""The reasoning a LangChain message carries, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage

__all__ = ["reasoning_in"]


def reasoning_in(message: BaseMessage) -> str:
    """The chain of thought behind a message of the assistant; empty: none that is text.

    Ours, and that of DeepSeek, Groq, Ollama and xAI, is a text in ``additional_kwargs``. Other
    providers keep theirs in blocks: Anthropic, Google (``thinking``), Bedrock
    (``reasoning_content``), OpenAI (summaries), and LangChain's standard ones (``reasoning``).
    What is encrypted or redacted has no text.
    """
    if not isinstance(message, AIMessage | ChatMessage):
        return ""
    told = message.additional_kwargs.get("reasoning_content")
    if isinstance(told, str) and told.strip():
        return told  # standard blocks, where there are any, say the same
    blocks = message.content if isinstance(message.content, list) else []
    # OpenAI's summaries, in messages of LangChain 0.3.
    older = message.additional_kwargs.get("reasoning")
    found = [text for block in [older, *blocks] for text in _texts(block) if text.strip()]
    return "\n\n".join(found)


def _texts(block: Any) -> Iterator[str]:
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
