"""JSON that arrives in pieces, and JSON that models write. Pure: no I/O, no clock."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import regex

__all__ = ["Undecided", "Value", "dump", "parsed"]

_IN_STRING = re.compile(r'["\\]')
_INSIDE = re.compile(r'["{}\[\]]')
_FLAT = re.compile(r'["{}\[\],\n]')  # a number or a word ends with its line
_MOST_LEVELS = 100
"""Of nesting. Whoever copies, compares or writes values recursively meets Python's limit soon."""


@dataclass(slots=True)
class Value:
    """Finds the end of a JSON value that arrives in pieces."""

    is_object: bool = False
    in_string: bool = False
    _begun: bool = False
    _depth: int = 0
    _escaped: bool = False

    @classmethod
    def inside_of_object(cls) -> Value:
        """For the rest of an object whose brace was read."""
        return cls(is_object=True, _begun=True, _depth=1)

    def feed(self, text: str) -> int | None:
        """Characters of ``text`` up to the value's end; ``None`` if it does not end here."""
        if text and not self._begun:
            self._begun, self.is_object = True, text[0] == "{"
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            sought = _IN_STRING if self.in_string else _INSIDE if self._depth else _FLAT
            found = sought.search(text, at)
            if found is None:
                return None
            at, character = found.end(), found[0]
            if self.in_string:
                self._escaped = character == "\\"
                self.in_string = self._escaped
                if not self.in_string and self._depth == 0:
                    return at
            elif character == '"':
                self.in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at if self._depth == 0 else at - 1
            else:
                return at - 1
        return None


@dataclass(slots=True)
class Undecided:
    """Looks for the end of the first object in a text, and for closing tags outside of strings.

    Args:
        think_end_tags: The tags; ``None``: there are none to look for.
    """

    think_end_tags: regex.Pattern[str] | None
    gave_up: bool = False  # the object is none: only tags end this
    _value: Value | None = None

    def feed(self, text: str) -> tuple[int, Literal["object", "closer"] | None]:
        """How much of the text was read, and what ends there.

        What is left, if nothing ends, may be the beginning of a tag: it has to come again.
        """
        at = 0
        while at < len(text):
            think_end_tag = (
                self.think_end_tags.search(text, at, partial=True) if self.think_end_tags else None
            )
            stop = len(text) if think_end_tag is None else think_end_tag.start()
            size = self._through(text[at:stop])
            if size is not None:
                return at + size, "object"
            at = stop
            if at == len(text):
                break
            value = self._value
            if value is not None and value.in_string:
                value.feed(text[at])  # a string may hold a tag
            elif think_end_tag is not None:
                return at, None if think_end_tag.partial else "closer"
            at += 1
        return at, None

    def _through(self, text: str) -> int | None:
        if self.gave_up:
            return None
        begin = 0
        if self._value is None:
            begin = text.find("{")
            if begin < 0:
                return None
            self._value = Value()
        size = self._value.feed(text[begin:])
        if size is None:
            return None
        self._value = None
        return begin + size


def parsed(text: str, *, exact: bool = False) -> Any:
    """The value of JSON as models write it: strings may hold newlines.

    Args:
        text: The JSON.
        exact: Without Python's additions: NaN and the infinities are none.

    Raises:
        ValueError: It is none, or is nested so deeply that nobody could work with it.
    """
    too_deep = ValueError(f"nested more than {_MOST_LEVELS} levels deep")
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse if exact else None)
    except RecursionError:
        raise too_deep from None
    levels, level = 0, [value]
    while level := [item for outer in level for item in _held(outer)]:
        levels += 1
        if levels > _MOST_LEVELS:
            raise too_deep
    return value


def dump(value: Any) -> str:
    """JSON as templates write it."""
    return json.dumps(value, ensure_ascii=False)


def _held(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
