"""The arguments of a call in Qwen's XML, turned into JSON while they are written. Pure.

::

    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>

A value is not escaped, so it may hold any of these tags itself. It ends only at a ``</parameter>``
that is followed by the next parameter or by an end of the call; any other tag in it is text.

Values are read by the tool's schema (see ``argument_types``). A value that can only be a text is
passed on as it arrives. One that may be a number, a list or an object waits until it is complete,
because it decides how its first character is written: ``12`` or ``"12 apples"``.
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
# A name holds no tag: "<parameter=" before "</tool_call>" is text, and the call ends there.
_PARAMETER = r"<parameter=[^<>\n]{1,256}+>"
# The next parameter or the call's end. The line break after a parameter's tag is not the value's.
_NEXT = regex.compile(
    rf"<parameter=(?P<name>[^<>\n]{{1,256}}+)>(?:\n|(?=[^\n]))|(?P<end></function>)|(?={_CLOSERS})"
)
_END_OF_VALUE = regex.compile(
    # The parameter's closing tag, if a parameter or an end of the call follows it,
    rf"\n?(?:</parameter>(?={GAP}(?:{_PARAMETER}|</function>|{_CLOSERS}))"
    # or, after a parameter that was never closed, the end of this call and the next one.
    rf"|(?=</function>{GAP}</tool_call>{GAP}<tool_call>{GAP}<function=))"
)
# Ends of a value that count only at the end of the reply, where nothing follows them.
_UNCLOSED = regex.compile(r"\n?</function>\s*(?:</tool_call>\s*)?")
_CLOSED = regex.compile(r"\n?</parameter>\s*")


@dataclass(slots=True)
class XmlArguments:
    """Reads the arguments of one call, from after ``<function=name>`` on.

    Args:
        parameters: The schema of the tool's arguments; ``None``: it is not known.

    Attributes:
        done: The call is complete.
        rest: The text after the call, once it is complete.
    """

    parameters: Mapping[str, Any] | None
    done: bool = False
    rest: str = ""
    _state: Literal["between", "value"] = "between"
    _buffer: str = ""  # not read yet, or the beginning of a tag
    _other: list[str] = field(default_factory=list)  # text outside of parameters
    _key: str = ""
    _kinds: Kinds = None  # JSON types that the schema allows for the value
    _waiting: list[str] = field(default_factory=list)  # a value that may still be of any kind
    _is_text: bool = False  # the value is a text, and is passed on as it comes
    _is_open: bool = False  # the value begins as a list, object or string: its end decides
    _keys: int = 0  # parameters that were written

    @property
    def text(self) -> str:
        """What stands in the call outside of parameters."""
        return "".join(self._other).strip()

    def feed(self, text: str) -> list[str]:
        """Take the next piece; returns the next parts of the arguments' JSON."""
        self._buffer += text
        parts: list[str] = []
        while not self.done and (
            self._read_between(parts) if self._state == "between" else self._read_value(parts)
        ):
            pass
        return parts

    def end(self) -> list[str]:
        """The reply is over; returns the last parts. :attr:`done`: the call was complete."""
        parts: list[str] = []
        if self._state == "value":
            if _UNCLOSED.fullmatch(self._buffer):
                self._end_value(parts)
                self._end_call(parts)
            elif _CLOSED.fullmatch(self._buffer):
                self._end_value(parts)
            elif self._is_text:
                parts.append(_escaped(self._buffer))
            elif self._keys:
                parts += [self._key_part(), *self._waiting, self._buffer]
        return [part for part in parts if part]

    def _read_between(self, parts: list[str]) -> bool:
        """Look for the next parameter or the call's end; ``False``: more text is needed."""
        match = _NEXT.search(self._buffer, partial=True)
        start = len(self._buffer) if match is None else match.start()
        self._other.append(self._buffer[:start])
        if match is None or match.partial:
            self._buffer = self._buffer[start:]
            return False
        self._buffer = self._buffer[match.end() :]
        if match["name"] is None:
            self._end_call(parts)
            return False
        self._key, self._kinds = match["name"], kinds_of(self.parameters, match["name"])
        self._state, self._is_text, self._is_open = "value", False, False
        self._add_to_value("", parts)
        return True

    def _end_call(self, parts: list[str]) -> None:
        if self._keys or not self.text:
            parts.append("}" if self._keys else "{}")
        self.done, self.rest, self._buffer = True, self._buffer, ""

    def _read_value(self, parts: list[str]) -> bool:
        match = _END_OF_VALUE.search(self._buffer, partial=True)
        start = len(self._buffer) if match is None else match.start()
        self._add_to_value(self._buffer[:start], parts)
        if match is None or match.partial:
            self._buffer = self._buffer[start:]
            return False
        self._buffer = self._buffer[match.end() :]
        self._end_value(parts)
        return True

    def _add_to_value(self, text: str, parts: list[str]) -> None:
        if self._is_text:
            if text:
                parts.append(_escaped(text))
            return
        if text:
            self._waiting.append(text)
        if self._is_open or (self._kinds is not None and "string" not in self._kinds):
            return  # only the whole value shows what it is
        value = "".join(self._waiting)
        if not may_be_other(value, self._kinds):
            self._is_text, self._waiting = True, []
            parts.append(f'{self._key_part()}"{_escaped(value)}')
        else:
            self._is_open = value.lstrip()[:1] in ("{", "[", '"')

    def _end_value(self, parts: list[str]) -> None:
        self._state = "between"
        if self._is_text:
            parts.append('"')
        else:
            parts.append(self._key_part() + dump(typed("".join(self._waiting), self._kinds)))
        self._waiting = []

    def _key_part(self) -> str:
        """JSON up to the value: a brace or a comma, and the key."""
        self._keys += 1
        return f"{'{' if self._keys == 1 else ', '}{dump(self._key)}: "


def _escaped(text: str) -> str:
    """Text as a part of a JSON string; parts of it one by one give the same."""
    return dump(text)[1:-1]
