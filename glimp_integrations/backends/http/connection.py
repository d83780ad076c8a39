"""One connection: a request is sent, and its response is read where its data arrives.

The protocol is HTTP/1.1, parsed by httptools. It is written on asyncio's own transports because
opening a stream and reading a token of it is most of what routing costs: a routed conversation
opens a connection for nearly every step, and reads hundreds of tokens.

Sources: https://docs.python.org/3/library/asyncio-protocol.html ("Transports and Protocols");
RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

__all__ = ["BrokenConnectionError", "Connection", "Headers"]

_MOST_HEAD_BYTES = 65536
# Bytes of a body's framing (sizes and extensions of chunks, trailers) without a byte of the body.
_MOST_FRAMING_BYTES = 65536
# What is kept of a body that nobody reads. Then the server has to wait.
_MOST_UNREAD_BYTES = 262144
_CHANGES_PROTOCOL = 101


class BrokenConnectionError(ConnectionError):
    """A connection ended in the middle, or what came on it is no HTTP."""


class Headers(Mapping[str, str]):
    """Headers of a response; names are looked up in any case.

    Args:
        pairs: Names and values. Values of the same name are joined, as RFC 9110, 5.3 has it.
    """

    def __init__(self, pairs: Iterator[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            name = name.lower()
            before = self._values.get(name)
            self._values[name] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time.

    Attributes:
        status: Of the response; 0 until its headers have come.
        headers: Of the response; none until they have come.
        is_over: The response has been received to its end. Some of its body may be unread.
        is_reusable: Another request may follow when the response is over.
        is_heard: Something has been received since the request was sent.
        was_used: It carried another request before this one.
        listener: Called after something has arrived, or the connection was lost.
    """

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None
        self.was_used = False
        self._is_lost = False
        self._begin(None)

    def _begin(self, parser: HttpResponseParser | None) -> None:
        self._parser = parser
        self.status, self.headers = 0, Headers(iter(()))
        self.is_over = self.is_heard = False
        self.is_reusable = True
        self._failure: Exception | None = None
        self._pieces: list[bytes] = []
        self._unread = 0
        self._found: list[tuple[bytes, bytes]] = []
        self._framing = 0  # bytes that were no body since the last that were
        self._ends_with_connection = False
        self._is_paused = False

    @property
    def transport(self) -> asyncio.Transport:
        """What asyncio sends by."""
        return self._transport

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return not self._is_lost and not self._transport.is_closing()

    def send(self, data: bytes) -> None:
        """Send a whole request. Its response is the next.

        Raises:
            BrokenConnectionError: The connection is closed.
        """
        parser = HttpResponseParser(self)
        # What other HTTP clients read, too. None of it can change where a response ends.
        parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._begin(parser)
        if not self.is_open:
            raise BrokenConnectionError("the connection is closed")
        self._transport.write(data)

    async def head(self) -> None:
        """Wait for the status and the headers of the response.

        Raises:
            BrokenConnectionError: They do not come.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._something()

    async def read(self) -> bytes:
        """What has come of the body, or the next that comes; empty at its end.

        Raises:
            BrokenConnectionError: It broke off; what came before was returned.
        """
        while True:
            if data := self.take():
                return data
            if self._failure is not None:
                raise self._failure
            if self.is_over:
                return b""
            await self._something()

    def take(self) -> bytes:
        """What has come of the body and was not taken yet; may be nothing."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces, self._unread = [], 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    @property
    def has_ended(self) -> bool:
        """Nothing more will come of the response, be it whole or not."""
        return self.is_over or self._failure is not None

    def release(self) -> None:
        """The response is done with; another request may follow."""
        if self._is_paused:
            self._transport.resume_reading()
        self._begin(None)
        self.was_used = True

    def close(self) -> None:
        """Close it at once: the server is to stop."""
        self.listener = self._parser = None  # which refer to this object
        if not self._is_lost:
            self._transport.abort()

    def break_off(self, text: str) -> None:
        """Close it. Whoever reads a response that is not over gets an error with this text."""
        self.is_reusable = False
        if not self.has_ended:
            self._failure = BrokenConnectionError(text)
        if self.is_open:
            self._transport.abort()

    # -- what asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are transports and say that they are not.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:  # a response that nobody asked for
            self.close()
            return
        self.is_heard = True
        self._framing += len(data)
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.break_off(_described(error))
        most = _MOST_FRAMING_BYTES if self.status else _MOST_HEAD_BYTES
        if self._framing > most and not self.is_over:
            what = "the framing of its body" if self.status else "the head of its response"
            self.break_off(f"{what} is longer than {most:,} bytes")
        if self._unread > _MOST_UNREAD_BYTES and not self._is_paused and self.is_open:
            self._is_paused = True
            self._transport.pause_reading()
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        if self.status and self._ends_with_connection and error is None and not self._failure:
            self.is_over, self.is_reusable = True, False
        why = f" ({error})" if error is not None else ""
        if self.status:
            self.break_off(f"the body of the response is not complete{why}")
        elif self.is_heard:
            self.break_off(f"the server closed the connection in the head of its response{why}")
        else:
            self.break_off(f"the server closed the connection without a response{why}")
        self._tell()

    # -- what the parser calls ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response begins; it may be one that nobody asked for."""
        if self.is_over:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one that follows the body (a trailer), which nobody reads."""
        if not self.status:
            self._found.append((name, value))

    def on_headers_complete(self) -> None:
        """All headers are here."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        found, self._found = self._found, []
        if self.is_over:
            return  # of another response
        if status == _CHANGES_PROTOCOL:
            raise ValueError("the server wants to speak another protocol (HTTP 101)")
        if status < 100:
            raise ValueError(f"there is no HTTP status {status}")
        if status < 200:
            return  # the real one is still to come
        self.status, self._framing = status, 0
        self.headers = Headers((n.decode("latin-1"), v.decode("latin-1")) for n, v in found)
        coding = self.headers.get("transfer-encoding", "").lower()
        self._ends_with_connection = (
            "content-length" not in self.headers and "chunked" not in coding
        )

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if not self.status:
            raise ValueError("a response before the real one has a body")
        if not self.is_over:
            self._pieces.append(data)
            self._unread += len(data)
            self._framing = 0

    def on_message_complete(self) -> None:
        """The response is over, if it is not one that says that the real one will come."""
        if self.status and not self.is_over and self._parser is not None:
            self.is_over = True
            is_sent = not self._transport.get_write_buffer_size()  # the whole request
            self.is_reusable = self.is_reusable and is_sent and self._parser.should_keep_alive()

    # -- inside ------------------------------------------------------------------------------------

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener()

    async def _something(self) -> None:
        """Wait until something has arrived, or the connection is lost."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listener = lambda: None if future.done() else future.set_result(None)
        try:
            await future
        finally:
            self.listener = None


def _described(error: Exception) -> str:
    # What a callback raises is the context of the parser's error.
    return f"the server sent what is no HTTP ({error.__context__ or error})"
