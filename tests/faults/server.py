"""An HTTP/1.1 server that writes raw bytes, so that every broken reply is possible."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .replies import Model, Refused

__all__ = ["ALWAYS", "STREAMED", "Closed", "Exchange", "Fault", "Server"]

ALWAYS = 10**9
STREAMED = ("/v1/completions", "/completion")
_REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}
Break = Callable[["Exchange", "Fault"], Awaitable[None]]
"""Answers a request otherwise than a healthy server."""


class Closed(Exception):
    """The connection is to be closed now."""


@dataclass
class Fault:
    """A fault and when it fires.

    Attributes:
        kind: Its name.
        answer: What is done in place of the healthy answer.
        route: The route it hits; empty for all small ones, ``"stream"`` for completions.
        skip: Requests of this route that pass before it.
        times: Requests that are hit.
        place: A random number from 0 to 1: where in the reply.
        value: Another one: what stands there.
        seen: Requests of this route so far.
        fired: How often it has been fired.
        note: What exactly was done.
    """

    kind: str
    answer: Break
    route: str
    skip: int = 0
    times: int = 1
    place: float = 0.0
    value: float = 0.0
    seen: int = 0
    fired: int = 0
    note: str = ""

    def __str__(self) -> str:
        often = "always" if self.times == ALWAYS else f"{self.times} times"
        where = self.route or "small routes"
        note = f": {self.note}" if self.note else ""
        return f"{self.kind!r} on {where} after {self.skip}, {often}, fired {self.fired}{note}"

    def hits(self, path: str) -> bool:
        """Whether it fires at a request; counts the requests."""
        streamed = path in STREAMED
        if self.route != path and self.route != ("stream" if streamed else ""):
            return False
        self.seen += 1
        if self.seen <= self.skip or self.fired >= self.times:
            return False
        self.fired += 1
        return True


@dataclass
class Server:
    """One model behind an address; use it as an asynchronous context manager.

    Attributes:
        model: What it serves.
        faults: What goes wrong.
        late: Whether nothing listens until :meth:`listen` is called.
        healthy: Whether no fault fires any more.
        running: Replies that are being written.
        requests: All requests, as method, path and number of bytes in the body.
        accepted: Connections that were opened.
        failures: Exceptions of the server itself, which no test may have.
    """

    model: Model
    faults: list[Fault] = field(default_factory=list)
    late: bool = False
    healthy: bool = False
    running: int = 0
    accepted: int = 0
    requests: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    async def __aenter__(self) -> Server:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if not self.late:
            await self.listen()
        return self

    async def listen(self) -> None:
        """Accept connections from now on."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._socket, limit=2**22)

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def meet(self, path: str, body: dict[str, Any]) -> tuple[Model, Fault | None]:
        """Who answers a request, and what goes wrong with it; called once for each."""
        faults = () if self.healthy else self.faults
        return self.model, next((f for f in faults if f.hits(path)), None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, Closed, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # the campaign is over; a cancelled handler would be logged
        except Exception as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            with suppress(OSError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether another one may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in head[1:] if h)}
        data = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(f"{method} {path} {len(data)}")
        body = json.loads(data) if data else {}
        model, fault = self.meet(path, body)
        exchange = Exchange(model, writer, method, path, headers, body)
        answer = exchange.answer() if fault is None else fault.answer(exchange, fault)
        self.running += 1
        try:
            return await _unless_gone(answer, reader)
        finally:
            self.running -= 1


async def _unless_gone(answer: Awaitable[None], reader: asyncio.StreamReader) -> bool:
    """Answer; whether the client is still there at the end."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        await work
        return not gone.done()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


@dataclass
class Exchange:
    """A request, and the ways to answer it."""

    model: Model
    writer: asyncio.StreamWriter
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def is_stream(self) -> bool:
        """Whether the reply is a stream of events."""
        return self.path in STREAMED

    async def answer(self) -> None:
        """What a healthy server answers."""
        try:
            if self.is_stream:
                await self.stream(event_bytes(event) for event in self.events())
            else:
                await self.send(200, as_bytes(self.reply()))
        except Refused as refusal:
            await self.refuse(refusal)

    def reply(self) -> Any:
        """The data of a small route's reply.

        Raises:
            Refused: There is none.
        """
        return self.model.small(self.method, self.path, self.body)

    def events(self, *, endless: bool = False) -> Iterator[dict[str, Any]]:
        """The chunks of a completion."""
        return self.model.events(self.path, self.body, endless=endless)

    async def refuse(self, refusal: Refused) -> None:
        """An error as these servers send it."""
        status, message = refusal.args
        await self.send(status, as_bytes({"error": {"message": message, "code": status}}))

    async def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        """A whole reply."""
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        await self.write(head_bytes(status, fields) + body)

    async def stream(
        self, pieces: Iterator[bytes] | AsyncIterator[bytes], *, done: bytes = b"data: [DONE]\n\n"
    ) -> None:
        """A chunked reply of events."""
        await self.begin()
        if isinstance(pieces, AsyncIterator):
            async for piece in pieces:
                await self.chunk(piece)
        else:
            for piece in pieces:
                await self.chunk(piece)
                await asyncio.sleep(0)
        await self.end(done)

    async def begin(self, kind: str = "text/event-stream") -> None:
        """The head of a chunked reply."""
        await self.write(head_bytes(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"}))

    async def chunk(self, data: bytes) -> None:
        """A part of a chunked reply."""
        if data:
            await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self, data: bytes = b"") -> None:
        """The end of a chunked reply."""
        await self.chunk(data)
        await self.write(b"0\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def hang(self) -> None:
        """Say nothing, until the client goes."""
        await asyncio.Event().wait()

    async def reset(self) -> None:
        """Break the connection with a TCP reset."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise Closed

    async def close(self) -> None:
        """Close the connection in good order."""
        raise Closed


def head_bytes(status: int, fields: dict[str, str]) -> bytes:
    """The head of a reply."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Because')}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def as_bytes(data: Any) -> bytes:
    """Compact JSON with its letters as they are, so that a cut may fall inside one."""
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def event_bytes(data: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + as_bytes(data) + b"\n\n"
