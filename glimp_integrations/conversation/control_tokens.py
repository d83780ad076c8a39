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
_CANDIDATE = re.compile(
    r"<[^<>\s][^<>\n]{0,80}>|\[/?(?:[A-Z][A-Z_ ]{1,40}|[A-Za-z]+_?[A-Z0-9]+)\]"
    r"|\[\|[^\[\]|\n]{1,64}\|\]|\]~!b\[|\]~b\]|\[e~\["
)


async def safe_message(
    backend: Backend, message: Message, think_tags: tuple[str, str] | None
) -> Message:
    """A message whose texts cannot be read as control tokens."""
    texts = {key: value for key, value in message.items() if key not in ("role", "tool_calls")}
    if isinstance(texts.get("reasoning_content"), str):
        # No tag in a thought may end it, whether the tokenizer has a token for the tag or not.
        tags = dict.fromkeys(tag for pair in (*KNOWN_TAGS, think_tags or ()) for tag in pair)
        texts["reasoning_content"] = _defused(texts["reasoning_content"], tags)
    safe = {**message, **await _safe_value(backend, texts)}
    if message.get("tool_calls"):
        safe["tool_calls"] = [await _safe_call(backend, call) for call in message["tool_calls"]]
    return safe


async def _safe_call(backend: Backend, call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    safe = {**call, "function": await _safe_value(backend, function)}
    if isinstance(arguments, str):
        safe["function"]["arguments"] = await _safe_json(backend, arguments)
    rest = {key: value for key, value in call.items() if key != "function"}
    return {**safe, **await _safe_value(backend, rest)}


async def _safe_json(backend: Backend, text: str) -> str:
    """Templates show the values of a JSON text without its escapes, so these are looked at."""
    try:
        value = json.loads(text, strict=False)
        safe = await _safe_value(backend, value)
        text = text if safe == value else json.dumps(safe, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass  # it reaches the template as the text it is
    return await neutralise(backend, text)


async def _safe_value(backend: Backend, value: Any) -> Any:
    """A copy of a JSON value in which every text, keys included, is only text."""
    if isinstance(value, str):
        return await neutralise(backend, value)
    if isinstance(value, Mapping):
        return {
            await _safe_value(backend, key): await _safe_value(backend, item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [await _safe_value(backend, item) for item in value]
    return value


async def safe_tool(backend: Backend, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool whose descriptions, which may come from a stranger's server, are only text."""
    safe: dict[str, Any] = await _safe_value(backend, tool)
    return safe


async def neutralise(backend: Backend, text: str) -> str:
    """Make sure that no part of ``text`` is read as a control token of ``backend``."""
    literals = set(_CANDIDATE.findall(text))
    if not literals:
        return text
    return _defused(text, await backend.control_literals(literals))


def _defused(text: str, literals: Iterable[str]) -> str:
    """A text in which none of the literals stands as it is."""
    for literal in literals:
        text = text.replace(literal, literal[0] + _JOINER + literal[1:])
    return text
