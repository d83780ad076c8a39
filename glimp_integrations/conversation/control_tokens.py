"""Texts of users and tools that can never be read as a model's control tokens.

A literal such as ``<|im_end|>`` inside a message gets an invisible word joiner (U+2060) after its
first character, so the tokenizer reads it as the characters it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.method.think_tags import KNOWN_TAGS

__all__ = ["neutralise", "safe_message", "safe_tool"]

_JOINER = "\u2060"
_CANDIDATE = re.compile(r"<[^<>\s][^<>\n]{0,80}>|\[/?(?:[A-Z][A-Z_ ]{1,40}|[A-Za-z]+_?[A-Z0-9]+)\]")
# A page of HTML holds hundreds of distinct tags; asking a server about each would cost more
# than it protects. Beyond this many the backend's own rule decides without a request.
_MAX_QUESTIONS = 32


async def safe_message(
    backend: Backend, message: Message, think_tags: tuple[str, str] | None
) -> Message:
    """A message whose texts cannot be read as control tokens."""
    texts = {k: message[k] for k in ("content", "name", "tool_call_id") if message.get(k)}
    if "reasoning_content" in message:
        # No tag in a thought may end it, whether the tokenizer has a token for the tag or not.
        tags = dict.fromkeys(tag for pair in (*KNOWN_TAGS, think_tags or ()) for tag in pair)
        texts["reasoning_content"] = _defused(message["reasoning_content"], tags)
    safe = {**message, **await _safe_texts(backend, texts)}
    if message.get("tool_calls"):
        safe["tool_calls"] = [
            {**await _safe_texts(backend, call), "function": function}
            for call in message["tool_calls"]
            for function in [await _safe_texts(backend, call["function"])]
        ]
    return safe


async def _safe_texts(backend: Backend, texts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: await neutralise(backend, value) if isinstance(value, str) else value
        for key, value in texts.items()
    }


async def safe_tool(backend: Backend, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool whose descriptions, which may come from a stranger's server, are only text."""
    text = json.dumps(tool, ensure_ascii=False)
    safe = await neutralise(backend, text)
    parsed: dict[str, Any] = dict(tool) if safe == text else json.loads(safe)
    return parsed


async def neutralise(backend: Backend, text: str) -> str:
    """Make sure that no part of ``text`` is read as a control token of ``backend``."""
    literals = set(_CANDIDATE.findall(text))
    if not literals:
        return text
    few = len(literals) <= _MAX_QUESTIONS
    for literal in literals:
        control = await (
            backend.is_control(literal) if few else Backend.is_control(backend, literal)
        )
        if control:
            text = _defused(text, (literal,))
    return text


def _defused(text: str, literals: Iterable[str]) -> str:
    """A text in which none of the literals stands as it is."""
    for literal in literals:
        text = text.replace(literal, literal[0] + _JOINER + literal[1:])
    return text
