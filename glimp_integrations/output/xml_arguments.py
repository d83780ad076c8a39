"""A call in Qwen's XML, read in pieces: arguments are told as JSON while they are written. Pure.

::

    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>

A value is not escaped, so it may hold any of these tags. It ends where ``</parameter>`` is followed
by the next parameter or by an end of the call; elsewhere the tag is text, as are all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from glimp_integrations.output.argument_types import Kinds, kinds_of, may_be_other, typed
from glimp_integrations.output.json_values import dump
from glimp_integrations.output.tool_formats import GAP, TAG_CLOSERS

__all__ = ["XmlArguments"]

_CLOSERS = "|".join(map(regex.escape, TAG_CLOSERS))
# No tag within a name: "<parameter=" before "</tool_call>" is text, and the call ends there.
_PARAMETER = r"<parameter=[^<>\n]{1,256}+>"
_NEXT = regex.compile(
    # The newline behind the tag is not the value's.
    rf"<parameter=(?P<name>[^<>\n]{{1,256}}+)>(?:\n|(?=[^\n]))|(?P<end></function>)|(?={_CLOSERS})"
)
_END_OF_VALUE = regex.compile(
    rf"\n?(?:</parameter>(?={GAP}(?:{_PARAMETER}|</function>|{_CLOSERS}))"
    # A parameter that was never closed, and the next call.
    rf"|(?=</function>{GAP}</tool_call>{GAP}<tool_call>{GAP}<function=))"
)
_UNCLOSED = regex.compile(r"\n?</function>\s*(?:</tool_call>\s*)?")
_CLOSED = regex.compile(r"\n?</parameter>\s*")


@dataclass(slots=True)
class XmlArguments:
    """The arguments of one call, behind ``<function=name>``.

    Args:
        parameters: The tool's schema; ``None``: not known.

    Attributes:
        done: The call is whole.
        rest: Text behind it.
        text: What stands in the call in place of parameters.
    """

    parameters: Mapping[str, Any] | None
    done: bool = False
    rest: str = ""
    _state: Literal["between", "value"] = "between"
    _buffer: str = ""
    _other: list[str] = field(default_factory=list)
    _key: str = ""
    _kinds: Kinds = None
    _waiting: list[str] = field(default_factory=list)  # the value so far, of unknown kind
    _is_text: bool = False  # the value is told as it comes
    _opener: bool = False  # it begins as lists and objects do: only its end tells
    _keys: int = 0

    @property
    def text(self) -> str:
        return "".join(self._other).strip()

    @property
    def has_parameters(self) -> bool:
        """Whether one has begun."""
        return self._keys > 0 or self._state == "value"

    def feed(self, text: str) -> list[str]:
        """Take the next piece; returns the next parts of the arguments' JSON."""
        self._buffer += text
        told: list[str] = []
        while not self.done and (self._between if self._state == "between" else self._value)(told):
            pass
        return told

    def end(self) -> list[str]:
        """The reply is over; whether the call is whole now, :attr:`done` tells."""
        told: list[str] = []
        if self._state == "value":
            if _UNCLOSED.fullmatch(self._buffer):
                self._finish(told)
                self._close(told)
            elif _CLOSED.fullmatch(self._buffer):
                self._finish(told)
            elif self._is_text:
                told.append(_escaped(self._buffer))
            elif self._keys:
                told += [self._lead(), *self._waiting, self._buffer]
        return [piece for piece in told if piece]

    def _between(self, told: list[str]) -> bool:
        found = _NEXT.search(self._buffer, partial=True)
        start = len(self._buffer) if found is None else found.start()
        self._other.append(self._buffer[:start])
        if found is None or found.partial:
            self._buffer = self._buffer[start:]
            return False
        self._buffer = self._buffer[found.end() :]
        if found["name"] is None:
            self._close(told)
            return False
        self._key, self._kinds = found["name"], kinds_of(self.parameters, found["name"])
        self._state, self._is_text, self._opener = "value", False, False
        self._take("", told)
        return True

    def _close(self, told: list[str]) -> None:
        if self._keys or not self.text:
            told.append("}" if self._keys else "{}")
        self.done, self.rest, self._buffer = True, self._buffer, ""

    def _value(self, told: list[str]) -> bool:
        found = _END_OF_VALUE.search(self._buffer, partial=True)
        start = len(self._buffer) if found is None else found.start()
        self._take(self._buffer[:start], told)
        if found is None or found.partial:
            self._buffer = self._buffer[start:]
            return False
        self._buffer = self._buffer[found.end() :]
        self._finish(told)
        return True

    def _take(self, text: str, told: list[str]) -> None:
        """More of the value."""
        if self._is_text:
            if text:
                told.append(_escaped(text))
            return
        if text:
            self._waiting.append(text)
        if self._opener or (self._kinds is not None and "string" not in self._kinds):
            return
        begun = "".join(self._waiting)
        if not may_be_other(begun, self._kinds):
            self._is_text, self._waiting = True, []
            told.append(f'{self._lead()}"{_escaped(begun)}')
        else:
            self._opener = begun.lstrip()[:1] in ("{", "[", '"')

    def _finish(self, told: list[str]) -> None:
        self._state = "between"
        if self._is_text:
            told.append('"')
        else:
            told.append(self._lead() + dump(typed("".join(self._waiting), self._kinds)))
        self._waiting = []

    def _lead(self) -> str:
        self._keys += 1
        return f"{'{' if self._keys == 1 else ', '}{dump(self._key)}: "


def _escaped(text: str) -> str:
    """Text as a part of a JSON string; parts of it one by one give the same."""
    return dump(text)[1:-1]
