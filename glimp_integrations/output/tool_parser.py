"""Finding tool calls in text that arrives in pieces. Pure: no I/O, no clock.

Read are Hermes and Qwen (``<tool_call>`` around JSON or XML), Llama 3 (bare JSON with
``parameters``), Mistral (``[TOOL_CALLS]``, both formats), DeepSeek (both formats) and JSON in a
Markdown fence, which coder models write whatever they were taught. No maintained parser covers
these without a serving engine around it, so this one leans on ``json`` and ``regex`` only.

Text that looks like a call and is none stays text, or becomes an invalid call if a tag said that
it was meant as one. Nothing here raises.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from glimp_integrations.output.json_values import Undecided, Value, dump, parsed
from glimp_integrations.output.schema_references import plain
from glimp_integrations.output.tool_formats import GAP, TAG_CLOSERS, trigger
from glimp_integrations.output.xml_arguments import XmlArguments
from glimp_integrations.trace.events import ToolCallDelta
from glimp_integrations.trace.records import InvalidToolCall, ToolCall

__all__ = ["ToolCallParser", "new_ids"]

_FUNCTION_NAME = r"[\w.\-]{1,64}"
_TYPED = rf'(?:"type"{GAP}:{GAP}"function"{GAP},{GAP})?'
# What stands in front of a call's arguments, its name included; bounded, see ``GAP``.
_HEAD = regex.compile(
    rf"{GAP}(?:\[{GAP})?\{{{{1,2}}{GAP}{_TYPED}"
    rf'"name"{GAP}:{GAP}"(?P<name>[^"\\]{{1,256}}+)"{GAP},{GAP}'
    rf'"(?:arguments|parameters)"{GAP}:{GAP}(?=\S)'
    rf"|{GAP}(?:<｜tool▁call▁begin｜>{GAP})?function{GAP}<｜tool▁sep｜>"
    rf"(?P<name>{_FUNCTION_NAME}){GAP}```json{GAP}(?=\{{)"
    rf"|{GAP}(?:<｜tool▁call▁begin｜>{GAP})?(?P<name>{_FUNCTION_NAME})<｜tool▁sep｜>{GAP}(?=\{{)"
    rf"|{GAP}(?P<name>{_FUNCTION_NAME})(?:\[CALL_ID\]\w{{0,64}}+)?(?:\[ARGS\])?{GAP}(?=\{{)"
)
_XML_HEAD = regex.compile(rf"{GAP}<function=(?P<name>{_FUNCTION_NAME})>")
# Without a tag, a call goes on behind its name as JSON does.
_GOES_ON = regex.compile(
    rf'(?:\[{GAP})?\{{{{1,2}}{GAP}{_TYPED}"name"{GAP}:{GAP}"[^"\\]{{1,256}}+"{GAP}'
    rf'(?:\}}|,{GAP}")'
)
# Characters. Every call in a text moves what follows it.
_MOST_AT_ONCE = 2048
_CLOSERS = (*TAG_CLOSERS, "</tools>")
# What may stand behind a call before the next call or text.
_REST = regex.compile(r"(?:\s|[}\],;]|" + "|".join(map(regex.escape, _CLOSERS)) + ")*+")
_FENCE = "```"
_END_OF_CALL = regex.compile("|".join(map(regex.escape, (*_CLOSERS, _FENCE))))
_CLOSER = regex.compile("|".join(map(regex.escape, TAG_CLOSERS)))


@dataclass(slots=True)
class ToolCallParser:
    """Splits a reply into its text and its tool calls.

    What a piece costs depends on the piece, not on what was held back before it: no beginning is
    longer than a few hundred characters, and what is longer is read once.

    Args:
        names: The tools that may be called. With none, everything is text.
        new_id: From a call's number to its id.
        most: Calls at most; what follows the last of them is dropped.
        parameters: The tools' schemas, by name: XML does not tell a text from a number.

    Attributes:
        calls: Calls whose arguments are JSON objects.
        invalid: The others.
    """

    names: Iterable[str]
    new_id: Callable[[int], str]
    most: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidToolCall] = field(default_factory=list)
    _content: list[str] = field(default_factory=list)
    _opening: regex.Pattern[str] | None = None
    _state: Literal["text", "head", "undecided", "xml", "value", "rest"] = "text"
    _buffer: str = ""  # not read yet, or the beginning of something
    _held: list[str] = field(default_factory=list)  # read, and nothing was told of it
    _before: str = "\n"
    _lead: str = ""  # what stands between the line's beginning and a call without a tag
    _trigger_size: int = 0  # characters of the JSON that may begin a call without a tag
    _tagged: bool = False
    _fenced: bool = False  # the fence around the call is still open
    _enclosed: Value | None = None  # the object around the arguments is still open
    _name: str = ""
    _id: str = ""
    _arguments: list[str] = field(default_factory=list)
    _value: Value = field(default_factory=Value)
    _xml: XmlArguments = field(default_factory=lambda: XmlArguments(None))
    _undecided: Undecided = field(default_factory=lambda: Undecided(None))
    _count: int = 0
    _spaces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = list(self.names)
        self._opening = trigger(names) if names else None

    @property
    def content(self) -> str:
        """The reply without its calls."""
        return "".join(self._content)

    def read(self, text: str) -> ToolCallParser:
        """Take a whole reply."""
        self.feed(text)
        self.end()
        return self

    def feed(self, text: str) -> list[str | ToolCallDelta]:
        """Take the next piece; returns what is certain now, in order."""
        if self._opening is None:
            self._content.append(text)
            return [text] if text else []
        if self._is_full:
            return []
        told: list[str | ToolCallDelta] = []
        for at in range(0, len(text), _MOST_AT_ONCE):
            self._buffer += text[at : at + _MOST_AT_ONCE]
            while not self._is_full and self._advance(told):
                pass
        return told

    def end(self) -> list[str | ToolCallDelta]:
        """The reply is over: what was still open is decided."""
        told: list[str | ToolCallDelta] = []
        if self._state == "value":
            self._end_value(told, whole=False)
        elif self._state == "xml":
            self._end_xml(told)
        elif self._state in ("head", "undecided"):
            self._give_up(self._all_held(), told)
        elif self._opening is not None and not self._is_full:
            self._say(self._all_held(), told)
        self._buffer, self._held, self._state = "", [], "text"
        if self._spaces and not self._count:
            spaces = "".join(self._spaces)
            self._content.append(spaces)
            told.append(spaces)
        self._spaces = []
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
            "undecided": self._read_undecided,
            "xml": self._read_xml,
            "value": self._read_value,
            "rest": self._read_rest,
        }[self._state](told)

    def _all_held(self) -> str:
        """Everything that was read since something began, and nothing was told of."""
        text = "".join([*self._held, self._buffer])
        self._held, self._buffer = [], ""
        return text

    def _read_text(self, told: list[str | ToolCallDelta]) -> bool:
        assert self._opening is not None
        found = self._opening.search(self._before + self._buffer, pos=1, partial=True)
        start = len(self._buffer) if found is None else found.start() - 1
        self._say(self._buffer[:start], told)
        if found is None or found.partial:
            self._buffer = self._buffer[start:]
            return False
        self._tagged = found["tag"] is not None
        begin = (found.end("tag") if self._tagged else found.start("json")) - 1
        self._lead = "" if self._tagged else self._buffer[start:begin]
        self._trigger_size = found.end() - 1 - begin
        self._fenced = self._fenced or found["fence"] is not None
        self._buffer = self._buffer[begin:]
        self._state = "head"
        return True

    def _say(self, text: str, told: list[str | ToolCallDelta]) -> None:
        """Text; white space waits, for it may only separate a call."""
        if not text:
            return
        self._before = text[-1]
        words = text.rstrip()
        if not words:
            self._spaces.append(text)
            return
        said = "".join(self._spaces) + words
        if self._count and not self._content:
            said = said.lstrip()
        self._spaces = [text[len(words) :]] if len(words) < len(text) else []
        self._content.append(said)
        told.append(said)

    def _read_head(self, told: list[str | ToolCallDelta]) -> bool:
        head = _HEAD.match(self._buffer, partial=True)
        if head is not None and head.partial:
            return False
        if head is not None:
            self._begin(head["name"], told)
            self._enclosed = (
                Value.inside_of_object() if head[0].lstrip()[:1] in ("{", "[") else None
            )
            self._fenced = self._fenced or _FENCE in head[0]
            self._buffer = self._buffer[head.end() :]
            self._value, self._state = Value(), "value"
            return True
        xml = _XML_HEAD.match(self._buffer, partial=True) if self._tagged else None
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
            goes_on = _GOES_ON.match(self._buffer, partial=True)
            if goes_on is None:
                # Only the trigger is known to be text. What follows it is searched again: how much
                # of it is here already depends on the pieces, and it may begin a call.
                text = self._buffer[: self._trigger_size]
                self._buffer = self._buffer[self._trigger_size :]
                self._give_up(text, told)
                return True
            if goes_on.partial:
                return False
        self._undecided = Undecided(_CLOSER if self._tagged else None)
        self._state = "undecided"
        return True

    def _read_undecided(self, told: list[str | ToolCallDelta]) -> bool:
        """A call as JSON of any order of keys, or none at all."""
        size, end = self._undecided.feed(self._buffer)
        self._held.append(self._buffer[:size])
        self._buffer = self._buffer[size:]
        if end is None:
            return False
        text = "".join(self._held)
        if end == "object" and self._read_unusual(text, told):
            self._held = []
        elif end == "object" and self._tagged:
            self._undecided.gave_up, self._held = True, [text]
        else:
            self._held = []
            self._give_up(text, told)
        return True

    def _read_unusual(self, text: str, told: list[str | ToolCallDelta]) -> bool:
        """Whether this is JSON; if it calls nobody, it is given up."""
        body = text.lstrip(" \n\r\t[,;")
        try:
            value = parsed(body) if body.startswith("{") else None
        except ValueError:
            return False
        if not isinstance(value, dict):
            return False
        call = value.get("function", value)
        name = call.get("name") if isinstance(call, dict) else call
        if isinstance(call, str):  # {"function": "name", "arguments": {...}}
            call = value
        # Without a tag, data may have a name, too.
        known = {"name", "type", "id", "arguments", "parameters"}
        is_data = not self._tagged and isinstance(call, dict) and not call.keys() <= known
        if not isinstance(call, dict) or not isinstance(name, str) or is_data:
            self._give_up(body if self._tagged else text, told)
            return True
        arguments = call.get("arguments", call.get("parameters", {}))
        self._begin(name, told)
        self._argue((arguments if isinstance(arguments, str) else dump(arguments)) or "{}", told)
        self._finish_call()
        return True

    def _read_xml(self, told: list[str | ToolCallDelta]) -> bool:
        if not self._arguments:
            self._held.append(self._buffer)  # too broken to have a name, should it end here
        pieces, self._buffer = self._xml.feed(self._buffer), ""
        self._tell_xml(pieces, told)
        if not self._xml.done:
            return False
        self._buffer = self._xml.rest
        if not self._arguments:  # neither parameters nor nothing: {"city": "Paris"}, or words
            self._tell_xml([self._xml.text], told)
        self._finish_call()
        return True

    def _tell_xml(self, pieces: list[str], told: list[str | ToolCallDelta]) -> None:
        for piece in pieces:
            if not self._arguments:
                self._held = []
                self._begin(self._name, told)
            self._argue(piece, told)

    def _end_xml(self, told: list[str | ToolCallDelta]) -> None:
        self._tell_xml(self._xml.end(), told)
        if not self._arguments:
            self._give_up(self._all_held(), told)
        else:
            self._finish_call()

    def _read_value(self, told: list[str | ToolCallDelta]) -> bool:
        size = self._value.feed(self._buffer)
        text = self._buffer if size is None else self._buffer[:size]
        self._buffer = self._buffer[len(text) :]
        if text and self._value.is_object:
            self._argue(text, told)
        elif text:
            self._arguments.append(text)
        if size is None:
            return False
        self._end_value(told, whole=True)
        return True

    def _end_value(self, told: list[str | ToolCallDelta], *, whole: bool) -> None:
        if not self._value.is_object and (whole or self._arguments):
            # JSON inside a JSON string, nothing, or something that is no object at all.
            text = _unquoted("".join(self._arguments)) or "{}"
            self._arguments = []
            self._argue(text, told)
        self._finish_call()

    def _read_rest(self, told: list[str | ToolCallDelta]) -> bool:
        if self._enclosed is not None:
            # Whatever else the call's object holds, up to its end or, if that is missing, a tag's.
            end = _END_OF_CALL.search(self._buffer, partial=True)
            stop = len(self._buffer) if end is None else end.start()
            size = self._enclosed.feed(self._buffer[:stop])
            read = stop if size is None else size
            self._held.append(self._buffer[:read])
            self._buffer = self._buffer[read:]
            if size is None and (end is None or end.partial):
                return False
            self._enclosed, self._held = None, []
        rest = _REST.match(self._buffer)
        assert rest is not None  # it may be empty
        if _CLOSER.search(rest[0]):
            self._tagged = False
        self._buffer = self._buffer[rest.end() :]
        if self._fenced and self._buffer.startswith(_FENCE):
            self._buffer, self._fenced = self._buffer[len(_FENCE) :], False
            return True
        think_end_tags = (*_CLOSERS, _FENCE) if self._fenced else _CLOSERS
        if any(think_end_tag.startswith(self._buffer) for think_end_tag in think_end_tags):
            return False  # nothing, or half of one
        # Behind a tag, several calls may stand in a row; without one, only names tell.
        self._state = "head" if self._tagged and self._buffer[0] == "{" else "text"
        self._before = "\n"
        self._spaces = self._spaces or [" "]
        return True

    def _begin(self, name: str, told: list[str | ToolCallDelta]) -> None:
        self._name, self._arguments = name, []
        self._id = self.new_id(self._count)
        told.append(ToolCallDelta(self._count, self._id, name, ""))
        self._count += 1

    def _argue(self, text: str, told: list[str | ToolCallDelta]) -> None:
        """More of the arguments."""
        self._arguments.append(text)
        told.append(ToolCallDelta(self._count - 1, None, None, text))

    def _finish_call(self) -> None:
        self._state = "rest"
        text = "".join(self._arguments)
        try:
            arguments = parsed(text)
            if not isinstance(arguments, dict):
                raise ValueError(f"expected an object, got {type(arguments).__name__}")
        except ValueError as error:
            self.invalid.append(
                InvalidToolCall(
                    index=self._count - 1,
                    id=self._id,
                    name=self._name,
                    text=text,
                    error=f"the arguments are no JSON object: {error}",
                )
            )
        else:
            self.calls.append(ToolCall(id=self._id, name=self._name, arguments=arguments))

    def _give_up(self, text: str, told: list[str | ToolCallDelta]) -> None:
        """What was meant as a call has not even a name; without a tag, it was not meant as one."""
        if not self._tagged:
            self._state = "text"
            self._fenced = self._fenced and _FENCE not in self._lead
            self._say(self._lead + text, told)
            self._lead = ""
            return
        self._state = "rest"
        text = text.strip()
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


def _unquoted(text: str) -> str:
    try:
        value = parsed(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else ("{}" if value is None else text)
