"""Finding tool calls in text that arrives in pieces. Pure: no I/O, no clock.

Read are Hermes and Qwen (``<tool_call>`` around JSON or XML), Llama 3 (bare JSON with
``parameters``), Mistral (``[TOOL_CALLS]``, both formats), DeepSeek (both formats) and JSON in a
Markdown fence, which coder models write whatever they were taught. No maintained parser covers
these without a serving engine around it, so this one leans on ``json`` and ``regex`` only.

Text that looks like a call and is none stays text, or becomes an invalid call if a tag said that
it was meant as one. Nothing here raises.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from glimp_integrations.events import ToolCallDelta
from glimp_integrations.forms.dialects import TAG_CLOSERS, opening
from glimp_integrations.trace import InvalidToolCall, ToolCall

__all__ = ["CallReader", "new_ids"]

_FUNCTION_NAME = r"[\w.\-]{1,64}"
# What stands in front of a call's arguments, its name included.
_HEAD = regex.compile(
    r'\s*(?:\[\s*)?\{{1,2}\s*(?:"type"\s*:\s*"function"\s*,\s*)?'
    r'"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)'
    rf"|\s*(?:<｜tool▁call▁begin｜>\s*)?function\s*<｜tool▁sep｜>(?P<name>{_FUNCTION_NAME})\s*"
    r"```json\s*(?=\{)"
    rf"|\s*(?:<｜tool▁call▁begin｜>\s*)?(?P<name>{_FUNCTION_NAME})<｜tool▁sep｜>\s*(?=\{{)"
    rf"|\s*(?P<name>{_FUNCTION_NAME})(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{{)"
)
_XML = regex.compile(
    rf"\s*<function=(?P<name>{_FUNCTION_NAME})>(?P<body>.*?)</function>", regex.DOTALL
)
_XML_ARGUMENT = regex.compile(
    rf"<parameter=(?P<name>{_FUNCTION_NAME})>\n?(?P<value>.*?)\n?</parameter>", regex.DOTALL
)
_CLOSERS = (*TAG_CLOSERS, "</tools>")
# What may stand behind a call before the next call or text.
_REST = regex.compile(r"(?:\s|[}\],;]|" + "|".join(map(regex.escape, _CLOSERS)) + ")*")
_FENCE = "```"
_END_OF_CALL = regex.compile("|".join(map(regex.escape, (*_CLOSERS, _FENCE))))
_CLOSER = regex.compile("|".join(map(regex.escape, TAG_CLOSERS)))


@dataclass(slots=True)
class CallReader:
    """Splits a reply into its text and its tool calls.

    Args:
        names: The tools that may be called. With none, everything is text.
        new_id: From a call's number to its id.
        most: Calls at most; what follows the last of them is dropped.

    Attributes:
        content: The reply without its calls.
        calls: Calls whose arguments are JSON objects.
        invalid: The others.
    """

    names: Iterable[str]
    new_id: Callable[[int], str]
    most: int | None = None
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidToolCall] = field(default_factory=list)
    _opening: regex.Pattern[str] | None = None
    _state: Literal["text", "head", "value", "rest"] = "text"
    _buffer: str = ""
    _before: str = "\n"
    _tagged: bool = False
    _fenced: bool = False  # the fence around the call is still open
    _enclosed: bool = False  # the object around the arguments is still open
    _name: str = ""
    _id: str = ""
    _arguments: str = ""
    _value: _Value | None = None
    _count: int = 0
    _spaces: str = ""

    def __post_init__(self) -> None:
        names = list(self.names)
        self._opening = opening(names) if names else None

    def read(self, text: str) -> CallReader:
        """Take a whole reply."""
        self.feed(text)
        self.end()
        return self

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """Take the next piece; returns what is certain now, in order."""
        if self._opening is None:
            self.content += text
            return [text] if text else []
        if self._is_full:
            return []
        self._buffer += text
        told: list[str | ToolCallDelta] = []
        while not self._is_full and self._advance(told):
            pass
        return told

    def end(self) -> list[str | ToolCallDelta]:
        """The reply is over: what was still open is decided."""
        told: list[str | ToolCallDelta] = []
        if self._state == "value":
            self._end_value(told, whole=False)
        elif self._state == "head":
            self._give_up(self._buffer, told)
        elif self._opening is not None and not self._is_full:
            self._say(self._buffer, told)
        self._buffer, self._state = "", "text"
        if self._spaces and not self._count:
            self.content += self._spaces
            told.append(self._spaces)
        self._spaces = ""
        return told

    # -- inside ------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return self._count == self.most and self._state in ("rest", "text")

    def _advance(self, told: list[str | ToolCallDelta]) -> bool:
        """One move; ``False`` when more text is needed."""
        return {
            "text": self._read_text,
            "head": self._read_head,
            "value": self._read_value,
            "rest": self._read_rest,
        }[self._state](told)

    def _read_text(self, told: list[str | ToolCallDelta]) -> bool:
        assert self._opening is not None
        found = self._opening.search(self._before + self._buffer, pos=1, partial=True)
        start = len(self._buffer) if found is None else found.start() - 1
        self._say(self._buffer[:start], told)
        if found is None or found.partial:
            self._buffer = self._buffer[start:]
            return False
        self._tagged = found["tag"] is not None
        self._fenced = self._fenced or found["fence"] is not None
        self._buffer = self._buffer[
            (found.end("tag") if self._tagged else found.start("json")) - 1 :
        ]
        self._state = "head"
        return True

    def _say(self, text: str, told: list[str | ToolCallDelta]) -> None:
        """Text; white space waits, for it may only separate a call."""
        if not text:
            return
        self._before = text[-1]
        words = text.rstrip()
        if not words:
            self._spaces += text
            return
        said = self._spaces + words
        if self._count and not self.content:
            said = said.lstrip()
        self._spaces = text[len(words) :]
        self.content += said
        told.append(said)

    def _read_head(self, told: list[str | ToolCallDelta]) -> bool:
        head = _HEAD.match(self._buffer)
        if head is not None:
            self._begin(head["name"], told)
            self._enclosed = head[0].lstrip()[:1] in ("{", "[")
            self._fenced = self._fenced or _FENCE in head[0]
            self._buffer = self._buffer[head.end() :]
            self._value = _Value()
            self._state = "value"
            return True
        xml = _XML.match(self._buffer)
        if xml is not None:
            arguments = {m["name"]: _typed(m["value"]) for m in _XML_ARGUMENT.finditer(xml["body"])}
            self._whole(xml["name"], _dump(arguments), told)
            self._buffer = self._buffer[xml.end() :]
            return True
        size = self._read_unusual(told)
        if size:
            self._buffer = self._buffer[size:]
            return True
        end = self._closing_tag() if self._tagged else None
        if end is None:
            return False
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        self._give_up(text, told)
        return True

    def _closing_tag(self) -> int | None:
        """Where a tag says that the call is over; one inside of an argument does not."""
        if self._buffer.lstrip().startswith("<function=") and "</function>" not in self._buffer:
            return None
        for found in _CLOSER.finditer(self._buffer):
            if not _in_string(self._buffer[: found.start()]):
                return found.start()
        return None

    def _read_unusual(self, told: list[str | ToolCallDelta]) -> int:
        """A call as JSON of any order of keys; how many characters it took, 0 if it is none."""
        body = self._buffer.lstrip(" \n\r\t[,;")
        skipped = len(self._buffer) - len(body)
        if not body.startswith("{"):
            return 0
        try:
            value, size = json.JSONDecoder(strict=False).raw_decode(body)
        except ValueError:
            return 0
        call = value.get("function", value) if isinstance(value, dict) else None
        name = call.get("name") if isinstance(call, dict) else call
        if isinstance(call, str):  # {"function": "name", "arguments": {...}}
            call = value
        # Without a tag, data may have a name, too.
        known = {"name", "type", "id", "arguments", "parameters"}
        is_data = not self._tagged and isinstance(call, dict) and not call.keys() <= known
        if not isinstance(call, dict) or not isinstance(name, str) or is_data:
            self._give_up(body[:size], told)
            return skipped + size
        arguments = call.get("arguments", call.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else _dump(arguments)
        self._whole(name, text or "{}", told)
        return skipped + size

    def _read_value(self, told: list[str | ToolCallDelta]) -> bool:
        assert self._value is not None
        size = self._value.feed(self._buffer)
        text = self._buffer if size is None else self._buffer[:size]
        self._buffer = self._buffer[len(text) :]
        self._arguments += text
        if text and self._value.is_object:
            told.append(ToolCallDelta(self._count - 1, None, None, text))
        if size is None:
            return False
        self._end_value(told, whole=True)
        return True

    def _end_value(self, told: list[str | ToolCallDelta], *, whole: bool) -> None:
        assert self._value is not None
        if not self._value.is_object and (whole or self._arguments):
            # JSON inside a JSON string, nothing, or something that is no object at all.
            self._arguments = _unquoted(self._arguments) or "{}"
            told.append(ToolCallDelta(self._count - 1, None, None, self._arguments))
        self._finish_call()

    def _read_rest(self, told: list[str | ToolCallDelta]) -> bool:
        if self._enclosed:
            # Whatever else the call's object holds, up to its end or, if that is missing, a tag's.
            size = _Value(is_object=True, _begun=True, _depth=1).feed(self._buffer)
            end = _END_OF_CALL.search(self._buffer)
            if size is None and end is None:
                return False
            places = [size, end.start() if end else None]
            self._buffer = self._buffer[min(p for p in places if p is not None) :]
            self._enclosed = False
        rest = _REST.match(self._buffer)
        assert rest is not None  # it may be empty
        if _CLOSER.search(rest[0]):
            self._tagged = False
        self._buffer = self._buffer[rest.end() :]
        if self._fenced and self._buffer.startswith(_FENCE):
            self._buffer, self._fenced = self._buffer[len(_FENCE) :], False
            return True
        closers = (*_CLOSERS, _FENCE) if self._fenced else _CLOSERS
        if any(closer.startswith(self._buffer) for closer in closers):
            return False  # nothing, or half of one
        # Behind a tag, several calls may stand in a row; without one, only names tell.
        self._state = "head" if self._tagged and self._buffer[0] == "{" else "text"
        self._before = "\n"
        self._spaces = self._spaces or " "
        return True

    def _begin(self, name: str, told: list[str | ToolCallDelta]) -> None:
        self._name, self._arguments = name, ""
        self._id = self.new_id(self._count)
        told.append(ToolCallDelta(self._count, self._id, name, ""))
        self._count += 1

    def _whole(self, name: str, arguments: str, told: list[str | ToolCallDelta]) -> None:
        self._begin(name, told)
        self._arguments = arguments
        told.append(ToolCallDelta(self._count - 1, None, None, arguments))
        self._finish_call()

    def _finish_call(self) -> None:
        self._state, self._value = "rest", None
        try:
            arguments = json.loads(self._arguments, strict=False)
            if not isinstance(arguments, dict):
                raise ValueError(f"expected an object, got {type(arguments).__name__}")
        except ValueError as error:
            self.invalid.append(
                InvalidToolCall(
                    index=self._count - 1,
                    id=self._id, name=self._name, text=self._arguments,
                    error=f"the arguments are no JSON object: {error}",
                )
            )  # fmt: skip
        else:
            self.calls.append(ToolCall(id=self._id, name=self._name, arguments=arguments))

    def _give_up(self, text: str, told: list[str | ToolCallDelta]) -> None:
        """What was meant as a call has not even a name."""
        text = text.strip()
        self._state = "rest"
        if not self._tagged:
            self._state = "text"
            self._say(text, told)
            return
        if not text:
            return
        call_id = self.new_id(self._count)
        self.invalid.append(
            InvalidToolCall(
                index=self._count, id=call_id, name=None, text=text, error="this is no tool call"
            )
        )
        told.append(ToolCallDelta(self._count, call_id, None, text))
        self._count += 1


def new_ids() -> Callable[[int], str]:
    """Ids for the calls of one reply: nine letters and digits, as Mistral's templates demand."""
    signs = string.ascii_letters + string.digits
    base = "".join(secrets.choice(signs) for _ in range(6))
    return lambda number: f"{base}{number:03}"[-9:]


@dataclass(slots=True)
class _Value:
    """Finds the end of a JSON value that arrives in pieces."""

    is_object: bool = False
    _begun: bool = False
    _depth: int = 0
    in_string: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> int | None:
        """Characters of ``text`` up to the value's end; ``None`` if it does not end here."""
        for place, character in enumerate(text):
            if not self._begun:
                self._begun, self.is_object = True, character == "{"
            if self.in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self.in_string = False
                    if self._depth == 0:
                        return place + 1
            elif character == '"':
                self.in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + (self._depth == 0)
            elif self._depth == 0 and character in ",\n":
                return place
        return None


def _in_string(text: str) -> bool:
    """Whether JSON that begins like this is inside a string at its end."""
    value = _Value()
    begin = text.find("{")
    return begin >= 0 and value.feed(text[begin:]) is None and value.in_string


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return text
    return value if isinstance(value, str) else ("{}" if value is None else text)


def _typed(text: str) -> Any:
    """An XML argument: JSON where it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
