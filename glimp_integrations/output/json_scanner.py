"""Finding where JSON ends in text that arrives in pieces. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import regex

__all__ = ["ObjectScanner", "ValueScanner"]

_IN_STRING = re.compile(r'["\\]')
_IN_BRACKETS = re.compile(r'["{}\[\]]')
_OUTSIDE = re.compile(r'["{}\[\],\n]')  # a number or a word ends with its line


@dataclass(slots=True)
class ValueScanner:
    """Finds the end of a JSON value that arrives in pieces.

    Attributes:
        is_object: The value begins with a brace.
        in_string: The text that was fed so far ends inside of a string.
    """

    is_object: bool = False
    in_string: bool = False
    _started: bool = False
    _depth: int = 0
    _escaped: bool = False  # the next character follows a backslash

    @classmethod
    def inside_of_object(cls) -> ValueScanner:
        """A scanner for the rest of an object whose opening brace was read already."""
        return cls(is_object=True, _started=True, _depth=1)

    def feed(self, text: str) -> int | None:
        """Take the next piece.

        Returns:
            The number of characters of ``text`` that belong to the value; ``None``: all of them,
            and the value goes on.
        """
        if text and not self._started:
            self._started, self.is_object = True, text[0] == "{"
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            pattern = _IN_STRING if self.in_string else _IN_BRACKETS if self._depth else _OUTSIDE
            match = pattern.search(text, at)
            if match is None:
                return None
            at, character = match.end(), match[0]
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
class ObjectScanner:
    """Looks for the end of the first object in a text, and for closing tags outside of strings.

    Args:
        closing_tags: Matches one of the tags; ``None``: there are none to look for.

    Attributes:
        tags_only: Only a closing tag ends the text, because its object proved not to be JSON.
    """

    closing_tags: regex.Pattern[str] | None
    tags_only: bool = False
    _value: ValueScanner | None = None

    def feed(self, text: str) -> tuple[int, Literal["object", "tag"] | None]:
        """Take the next piece.

        Returns:
            How many characters were read, and what was found there: the end of an object, or, not
            read yet, a closing tag. Where nothing was found, the characters that were not read may
            be the beginning of a tag and have to be fed again.
        """
        at = 0
        while at < len(text):
            tag = self.closing_tags.search(text, at, partial=True) if self.closing_tags else None
            stop = len(text) if tag is None else tag.start()
            size = self._object_end(text[at:stop])
            if size is not None:
                return at + size, "object"
            at = stop
            if at == len(text):
                break
            value = self._value
            if value is not None and value.in_string:
                value.feed(text[at])  # a tag inside of a string is text
            elif tag is not None:
                return at, None if tag.partial else "tag"
            at += 1
        return at, None

    def _object_end(self, text: str) -> int | None:
        """How much of the text belongs to the object or stands before it, if it ends here."""
        if self.tags_only:
            return None
        start = 0
        if self._value is None:
            start = text.find("{")
            if start < 0:
                return None
            self._value = ValueScanner()
        size = self._value.feed(text[start:])
        if size is None:
            return None
        self._value = None
        return start + size
