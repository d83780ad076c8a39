"""Decoding the body of a streamed response: server-sent events, or one JSON object a line.

Pure: bytes in, the texts of JSON documents out. Written here because the decoders of the known
packages take an empty event for a JSON document, lose the first event behind a byte order mark,
or buffer without a limit.

Source: HTML Living Standard, 9.2.6 "Interpreting an event stream"
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator

from typing_extensions import override

__all__ = ["MAX_EVENT_BYTES", "Decoder", "EventStream", "JsonLines"]

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""The longest event or line that is read. A token with its log-probabilities takes a few kB."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Decoder(ABC):
    """Decodes one body.

    Attributes:
        done: The server has said that nothing more will come (``[DONE]``).
    """

    # What ends a line of this format.
    line_end = _LINE_END

    def __init__(self) -> None:
        self.done = False
        self._buffer = bytearray()
        self._searched = 0  # no line ends before this position of the buffer
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The documents that are complete now.

        Raises:
            ValueError: An event or a line is longer than ``MAX_EVENT_BYTES``.
        """
        if self.done:
            return
        self._buffer += data
        if not self._begun:
            if _BOM.startswith(self._buffer[:3]) and len(self._buffer) < len(_BOM):
                return  # it may still be a byte order mark
            self._begun = True
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
        start = 0
        for end in self.line_end.finditer(self._buffer, self._searched):
            if end.group() == b"\r" and end.end() == len(self._buffer):
                break  # a line feed may follow
            line, start = bytes(self._buffer[start : end.start()]), end.end()
            if (document := self.line(line)) is not None:
                yield document
            if self.done:
                break
        del self._buffer[:start]
        # A carriage return at the end has to be looked at again.
        self._searched = max(0, len(self._buffer) - 1)
        self.check_size(len(self._buffer))

    @abstractmethod
    def line(self, line: bytes) -> bytes | None:
        """Read one line; returns a document if the line completes one."""

    def rest(self) -> Iterator[bytes]:
        """The document that the end of the body completes, if any."""
        yield from ()

    def check_size(self, size: int) -> None:
        """Refuse an event or line of this many bytes, if that is too long.

        Raises:
            ValueError: It is.
        """
        if size > MAX_EVENT_BYTES:
            raise ValueError(f"one event of the stream is longer than {MAX_EVENT_BYTES:,} bytes")


class EventStream(Decoder):
    """Server-sent events: the data of every event that has any."""

    def __init__(self) -> None:
        super().__init__()
        self._data: list[bytes] = []
        self._size = 0

    @override
    def feed(self, data: bytes) -> Iterator[bytes]:
        # What servers send nearly always, at a tenth of the work: whole events of one line.
        usual = data.startswith(b"data: ") and data.endswith(b"\n\n") and b"\r" not in data
        if not usual or self._buffer or self._data or len(data) > MAX_EVENT_BYTES:
            yield from super().feed(data)
            return
        self._begun = True
        for event in data[:-2].split(b"\n\n"):
            if self.done:
                return
            if event.startswith(b"data: {") and b"\n" not in event:
                yield event[6:]
                continue
            for line in event.split(b"\n"):
                self.line(line)
            if (document := self._dispatch()) is not None:
                yield document

    @override
    def line(self, line: bytes) -> bytes | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        # Comments have an empty name. What the other fields say (event, id, retry) is of no use.
        if name == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value) + 1
            self.check_size(self._size)
            self._data.append(value)
        return None

    @override
    def rest(self) -> Iterator[bytes]:
        # Only a carriage return can be left that is not followed by anything. What comes after the
        # last blank line is cut off, and the standard says to ignore it.
        if self._buffer == b"\r" and (document := self._dispatch()) is not None:
            yield document

    def _dispatch(self) -> bytes | None:
        data, self._data, self._size = b"\n".join(self._data), [], 0
        if data.startswith(b"[DONE]"):
            self.done = True
            return None
        return data if data.strip() else None


class JsonLines(Decoder):
    """One JSON object a line (Ollama)."""

    # Only a line feed: JSON may hold other line ends.
    line_end = re.compile(rb"\n")

    @override
    def line(self, line: bytes) -> bytes | None:
        return line if line.strip() else None

    @override
    def rest(self) -> Iterator[bytes]:
        if self._buffer.strip():
            yield bytes(self._buffer)
