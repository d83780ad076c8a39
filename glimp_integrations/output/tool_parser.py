"""Finding tool calls in text that arrives in pieces. Pure: no I/O, no clock.

The parser reads the formats of Hermes and Qwen (``<tool_call>`` around JSON or XML), Llama 3 (bare
JSON with ``parameters``), Mistral (``[TOOL_CALLS]``, both formats) and DeepSeek (both formats), and
JSON in a Markdown fence, which coder models write whatever they were taught. It takes any of them
from any model.

Text that only looks like a call stays text. If a tag said that it was meant as a call, it becomes
an invalid call. Nothing here raises. However the text is cut into pieces, the result is the same::

    text ──a trigger──> head ──arguments follow──> value ──their end──> rest ──> text or head
                         ├──JSON in another order──> object ──its end──> rest
                         ├──<function=NAME>──> xml ──its end──> rest
                         └──not a call──> text (or an invalid call, then rest)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from glimp_integrations.output.json_scanner import ObjectScanner, ValueScanner
from glimp_integrations.output.json_values import dump, parse
from glimp_integrations.output.reply_text import ReplyText
from glimp_integrations.output.schema_references import plain
from glimp_integrations.output.tool_call_patterns import (
    AFTER_CALL,
    BARE_CALL,
    CLOSERS,
    CLOSING_TAG,
    END_OF_CALL,
    FENCE,
    HEAD,
    XML_HEAD,
)
from glimp_integrations.output.tool_formats import trigger
from glimp_integrations.output.xml_arguments import XmlArguments
from glimp_integrations.trace.events import ToolCallDelta
from glimp_integrations.trace.records import InvalidToolCall, ToolCall

__all__ = ["ToolCallParser"]

# Characters that are taken at a time. Every call in a text moves what follows it in the buffer, so
# that a large buffer with many calls would be copied again and again.
_PIECE_SIZE = 2048


@dataclass(slots=True)
class ToolCallParser:
    """Splits a reply into its text and its tool calls.

    What a piece costs depends on the piece, not on what was held back before it: no beginning of
    a call is longer than a few hundred characters, and longer parts are read once.

    Args:
        names: The tools that may be called. With none, everything is text.
        new_id: From a call's number to its id.
        most: The highest number of calls. What follows the last of them is dropped.
        parameters: By a tool's name, the schema of its arguments. XML does not distinguish a text
            from a number, so the schema decides.

    Attributes:
        calls: Calls whose arguments are JSON objects.
        invalid: What was meant as a call and cannot be read as one.
    """

    names: Iterable[str]
    new_id: Callable[[int], str]
    most: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidToolCall] = field(default_factory=list)
    _text: ReplyText = field(default_factory=ReplyText)
    _output: list[str | ToolCallDelta] = field(default_factory=list)  # not returned yet
    _trigger: regex.Pattern[str] | None = None
    _state: Literal["text", "head", "object", "xml", "value", "rest"] = "text"
    _buffer: str = ""  # text that was not read yet, or that may be the beginning of something
    _held: list[str] = field(default_factory=list)  # text that was read and not returned
    _tagged: bool = False  # a tag began the call
    _fenced: bool = False  # the fence around the call is still open
    _line_start: str = ""  # what stands between the line's start and a call without a tag
    _trigger_size: int = 0  # characters of a call without a tag, up to the end of the tool's name
    _enclosing: ValueScanner | None = None  # the object around the arguments, while it is open
    _value: ValueScanner = field(default_factory=ValueScanner)
    _object: ObjectScanner = field(default_factory=lambda: ObjectScanner(None))
    _xml: XmlArguments = field(default_factory=lambda: XmlArguments(None))
    _count: int = 0  # calls that have begun, invalid ones included
    _id: str = ""
    _name: str = ""
    _arguments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = list(self.names)
        self._trigger = trigger(names) if names else None

    @property
    def content(self) -> str:
        """The reply without its calls."""
        return self._text.content

    def read(self, text: str) -> ToolCallParser:
        """Take a whole reply; returns the parser itself."""
        self.feed(text)
        self.end()
        return self

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """Take the next piece; returns the text and parts of calls that are certain now."""
        if self._trigger is None:
            return [self._text.add_exactly(text)] if text else []
        if not self._is_full:
            for at in range(0, len(text), _PIECE_SIZE):
                self._buffer += text[at : at + _PIECE_SIZE]
                while not self._is_full and self._advance():
                    pass
        return self._take_output()

    def end(self) -> list[str | ToolCallDelta]:
        """The reply is over; returns what was still undecided."""
        if self._state == "value":
            self._end_value(complete=False)
        elif self._state == "xml":
            self._end_xml()
        elif self._state in ("head", "object"):
            self._give_up(self._take_held())
        elif self._trigger is not None and not self._is_full:
            self._add_text(self._take_held())
        self._buffer, self._held, self._state = "", [], "text"
        self._emit(self._text.end(after_call=self._count > 0))
        return self._take_output()

    # -- Output --

    def _emit(self, text: str) -> None:
        if text:
            self._output.append(text)

    def _add_text(self, text: str) -> None:
        self._emit(self._text.add(text, after_call=self._count > 0))

    def _take_output(self) -> list[str | ToolCallDelta]:
        output, self._output = self._output, []
        return output

    def _take_held(self) -> str:
        """Everything that was read or waits since something began, and was not returned."""
        text = "".join([*self._held, self._buffer])
        self._held, self._buffer = [], ""
        return text

    # -- States: each method returns False when it needs more text --

    @property
    def _is_full(self) -> bool:
        return self._count == self.most and self._state in ("rest", "text")

    def _advance(self) -> bool:
        return {
            "text": self._read_text,
            "head": self._read_head,
            "object": self._read_object,
            "xml": self._read_xml,
            "value": self._read_value,
            "rest": self._read_rest,
        }[self._state]()

    def _read_text(self) -> bool:
        assert self._trigger is not None
        # The character before the buffer tells whether the buffer begins a line. A partial match
        # is a trigger whose second half may be in the next piece: it waits in the buffer.
        match = self._trigger.search(self._text.last_character + self._buffer, pos=1, partial=True)
        start = len(self._buffer) if match is None else match.start() - 1
        self._add_text(self._buffer[:start])
        if match is None or match.partial:
            self._buffer = self._buffer[start:]
            return False
        self._tagged = match["tag"] is not None
        call = (match.end("tag") if self._tagged else match.start("json")) - 1
        self._line_start = "" if self._tagged else self._buffer[start:call]
        self._trigger_size = match.end() - 1 - call
        self._fenced = self._fenced or match["fence"] is not None
        self._buffer = self._buffer[call:]
        self._state = "head"
        return True

    def _read_head(self) -> bool:
        head = HEAD.match(self._buffer, partial=True)
        if head is not None and head.partial:
            return False
        if head is not None:
            self._begin_call(head["name"])
            in_object = head[0].lstrip()[:1] in ("{", "[")
            self._enclosing = ValueScanner.inside_of_object() if in_object else None
            self._fenced = self._fenced or FENCE in head[0]
            self._buffer = self._buffer[head.end() :]
            self._value, self._state = ValueScanner(), "value"
            return True
        xml = XML_HEAD.match(self._buffer, partial=True) if self._tagged else None
        if xml is not None and xml.partial:
            return False
        if xml is not None:
            self._name = xml["name"]
            parameters = self.parameters.get(self._name)
            self._xml = XmlArguments(plain(parameters) if isinstance(parameters, Mapping) else None)
            self._held, self._buffer = [xml[0]], self._buffer[xml.end() :]
            self._arguments, self._state = [], "xml"
            return True
        if not self._tagged:
            bare = BARE_CALL.match(self._buffer, partial=True)
            if bare is None:
                # Only the trigger is known to be text. What follows it is searched again: how much
                # of it is here already depends on the pieces, and it may begin a call.
                text = self._buffer[: self._trigger_size]
                self._buffer = self._buffer[self._trigger_size :]
                self._give_up(text)
                return True
            if bare.partial:
                return False
        self._object = ObjectScanner(CLOSING_TAG if self._tagged else None)
        self._state = "object"
        return True

    def _read_object(self) -> bool:
        """JSON whose keys come in an order that :data:`HEAD` does not know, or no call at all."""
        size, end = self._object.feed(self._buffer)
        self._held.append(self._buffer[:size])
        self._buffer = self._buffer[size:]
        if end is None:
            return False
        text = "".join(self._held)
        if end == "object" and self._read_json(text):
            self._held = []
        elif end == "object" and self._tagged:
            self._object.tags_only, self._held = True, [text]
        else:
            self._held = []
            self._give_up(text)
        return True

    def _read_json(self, text: str) -> bool:
        """Whether this is a JSON object. If it calls no tool, it is given up."""
        body = text.lstrip(" \n\r\t[,;")
        try:
            value = parse(body) if body.startswith("{") else None
        except ValueError:
            return False
        if not isinstance(value, dict):
            return False
        call = _call_in(value, tagged=self._tagged)
        if call is None:
            self._give_up(body if self._tagged else text)
            return True
        name, arguments = call
        self._begin_call(name)
        self._add_arguments(arguments)
        self._end_call()
        return True

    def _read_xml(self) -> bool:
        if not self._arguments:
            self._held.append(self._buffer)  # all of an invalid call, should the reply end here
        parts, self._buffer = self._xml.feed(self._buffer), ""
        self._add_xml_arguments(parts)
        if not self._xml.done:
            return False
        self._buffer = self._xml.rest
        if not self._arguments:
            # Something else in the place of parameters, such as {"city": "Paris"}, or words.
            self._add_xml_arguments([self._xml.text])
        self._end_call()
        return True

    def _add_xml_arguments(self, parts: list[str]) -> None:
        for part in parts:
            if not self._arguments:
                self._held = []
                self._begin_call(self._name)
            self._add_arguments(part)

    def _end_xml(self) -> None:
        self._add_xml_arguments(self._xml.end())
        if not self._arguments:
            self._give_up(self._take_held())
        else:
            self._end_call()

    def _read_value(self) -> bool:
        size = self._value.feed(self._buffer)
        text = self._buffer if size is None else self._buffer[:size]
        self._buffer = self._buffer[len(text) :]
        if text and self._value.is_object:
            self._add_arguments(text)
        elif text:
            self._arguments.append(text)
        if size is None:
            return False
        self._end_value(complete=True)
        return True

    def _end_value(self, *, complete: bool) -> None:
        if not self._value.is_object and (complete or self._arguments):
            # A JSON string that holds the arguments' JSON, nothing, or a value of another kind.
            text = _unquoted("".join(self._arguments)) or "{}"
            self._arguments = []
            self._add_arguments(text)
        self._end_call()

    def _read_rest(self) -> bool:
        if self._enclosing is not None:
            # The rest of the object around the arguments, up to its end or, if that is missing, up
            # to a closing tag.
            end = END_OF_CALL.search(self._buffer, partial=True)
            stop = len(self._buffer) if end is None else end.start()
            size = self._enclosing.feed(self._buffer[:stop])
            read = stop if size is None else size
            self._held.append(self._buffer[:read])
            self._buffer = self._buffer[read:]
            if size is None and (end is None or end.partial):
                return False
            self._enclosing, self._held = None, []
        rest = AFTER_CALL.match(self._buffer)
        assert rest is not None  # it may be empty
        if CLOSING_TAG.search(rest[0]):
            self._tagged = False
        self._buffer = self._buffer[rest.end() :]
        if self._fenced and self._buffer.startswith(FENCE):
            self._buffer, self._fenced = self._buffer[len(FENCE) :], False
            return True
        closers = (*CLOSERS, FENCE) if self._fenced else CLOSERS
        if any(closer.startswith(self._buffer) for closer in closers):
            return False  # the buffer is empty, or may be the first half of a closing tag
        # After one tag several calls may stand in a row. Without a tag, a call has to name a tool
        # again to be one.
        self._state = "head" if self._tagged and self._buffer[0] == "{" else "text"
        self._text.end_call()
        return True

    # -- Calls --

    def _begin_call(self, name: str) -> None:
        self._name, self._arguments = name, []
        self._id = self.new_id(self._count)
        self._output.append(ToolCallDelta(self._count, self._id, name, ""))
        self._count += 1

    def _add_arguments(self, text: str) -> None:
        self._arguments.append(text)
        self._output.append(ToolCallDelta(self._count - 1, None, None, text))

    def _end_call(self) -> None:
        self._state = "rest"
        text = "".join(self._arguments)
        try:
            arguments = parse(text)
            if not isinstance(arguments, dict):
                raise ValueError(f"expected an object, got {type(arguments).__name__}")
        except ValueError as error:
            self.invalid.append(
                InvalidToolCall(
                    index=self._count - 1,
                    id=self._id,
                    name=self._name,
                    text=text,
                    error=f"the arguments are not a JSON object: {error}",
                )
            )
        else:
            self.calls.append(ToolCall(id=self._id, name=self._name, arguments=arguments))

    def _give_up(self, text: str) -> None:
        """Take text that is not a call: as text, or after a tag as an invalid call."""
        if not self._tagged:
            self._state = "text"
            self._fenced = self._fenced and FENCE not in self._line_start
            self._add_text(self._line_start + text)
            self._line_start = ""
            return
        self._state = "rest"
        text = text.strip()
        if not text:
            return
        call_id = self.new_id(self._count)
        self.invalid.append(
            InvalidToolCall(
                index=self._count,
                id=call_id,
                name=None,
                text=text,
                error="this is not a tool call",
            )
        )
        self._output.append(ToolCallDelta(self._count, call_id, None, text))
        self._count += 1


def _call_in(value: dict[str, Any], *, tagged: bool) -> tuple[str, str] | None:
    """The tool's name and the JSON text of its arguments; ``None``: the object calls no tool."""
    # {"function": {"name": ..., "arguments": ...}} or the call itself
    call = value.get("function", value)
    name = call.get("name") if isinstance(call, dict) else call
    if isinstance(call, str):  # {"function": "name", "arguments": {...}}
        call = value
    if not isinstance(call, dict) or not isinstance(name, str):
        return None
    # Data may have a name as well. Without a tag, an object with other keys than a call's is data.
    if not tagged and not call.keys() <= {"name", "type", "id", "arguments", "parameters"}:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return name, (arguments if isinstance(arguments, str) else dump(arguments)) or "{}"


def _unquoted(text: str) -> str:
    """The text inside of a JSON string; an empty object for ``null``; else the text itself."""
    try:
        value = parse(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else ("{}" if value is None else text)
