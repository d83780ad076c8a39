"""Texts of users and tools that can never be read as a model's control tokens.

A literal such as ``<|im_end|>`` inside a message gets an invisible word joiner (U+2060) after its
first character, so the tokenizer reads it as the characters it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.method.think_tags import KNOWN_TAGS

__all__ = ["Safe"]

_JOINER = "\u2060"
_CANDIDATE = re.compile(
    r"<[^<>\s][^<>\n]{0,80}>|\[/?(?:[A-Z][A-Z_ ]{1,40}|[A-Za-z]+_?[A-Z0-9]+)\]"
    r"|\[\|[^\[\]|\n]{1,64}\|\]|\]~!b\[|\]~b\]|\[e~\["
)


@dataclass(frozen=True, slots=True)
class Safe:
    """Makes the texts of one conversation safe for one model.

    Attributes:
        control: The control tokens that stand in it.
        tags: The think tags, which no earlier reasoning may hold, whether the tokenizer has a
            token for them or not.
    """

    control: Sequence[str]
    tags: Sequence[str] = ()

    @classmethod
    async def of(
        cls, backend: Backend, texts: object, think_tags: tuple[str, str] | None = None
    ) -> Safe:
        """Find the control tokens of ``backend`` in any JSON value; asks about all of them at once.

        Raises:
            BackendError: The server failed.
        """
        own = await backend.own_control_tokens()
        parts = list(_texts(texts))
        if own is not None:
            control = {token for token in own if any(token in part for part in parts)}
        else:
            literals = {literal for part in parts for literal in _CANDIDATE.findall(part)}
            control = await backend.control_literals(literals) if literals else set()
        tags = dict.fromkeys(tag for pair in (*KNOWN_TAGS, think_tags or ()) for tag in pair)
        # Longer ones first: one may be a part of another.
        return cls(sorted(control, key=len, reverse=True), [*tags])

    def message(self, message: Message) -> Message:
        """A message whose texts cannot be read as control tokens."""
        safe = {
            key: value if key == "role" else self.value(value)
            for key, value in message.items()
            if key != "tool_calls"
        }
        if isinstance(safe.get("reasoning_content"), str):
            safe["reasoning_content"] = _defused(safe["reasoning_content"], self.tags)
        if "tool_calls" in message:
            calls = message["tool_calls"]
            safe["tool_calls"] = [self._call(call) for call in calls] if calls else calls
        return safe

    def value(self, value: Any) -> Any:
        """A copy of a JSON value in which every text, keys included, is only text."""
        if isinstance(value, str):
            return _defused(value, self.control)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        safe: dict[str, Any] = self.value(call)
        arguments = call["function"].get("arguments")
        if isinstance(arguments, str):
            safe["function"]["arguments"] = self._json(arguments)
        return safe

    def _json(self, text: str) -> str:
        """Templates show the values of a JSON text without its escapes, so these are looked at."""
        parsed = _parsed(text)
        safe = self.value(parsed)
        return _defused(
            text if safe == parsed else json.dumps(safe, ensure_ascii=False), self.control
        )


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value; of a text that is JSON itself, the texts in it, too."""
    if isinstance(value, str):
        yield value
        # Escaped quotes and characters: the text in it differs from the text itself.
        if "\\" in value and (parsed := _parsed(value)) is not None:
            yield from _texts(parsed)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _parsed(text: str) -> Any:
    """The objects and lists in a JSON text; ``None`` for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _defused(text: str, literals: Iterable[str]) -> str:
    """A text in which none of the literals stands as it is."""
    for literal in literals:
        text = text.replace(literal, literal[0] + _JOINER + literal[1:])
    return text
