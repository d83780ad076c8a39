"""A server that answers with whatever bytes a test likes, and the HTTP client in front of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from glimp_integrations.backends.http.client import HttpClient
from glimp_integrations.backends.http.connections import Connections

BODY = b"All of it.\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n5\r\nand so on\xff\x00"
HTTP = b"HTTP/1.1 200 OK\r\n"
WHOLE = HTTP + b"Content-Length: 2\r\n\r\nhi"
CHUNKED = HTTP + b"Transfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Encoding: br\r\n\r\n"
BIG = bytes(range(256)) * 200_000  # about 50 MB
NAME = "models.invalid"


class Server:
    """Answers requests with given bytes; a scripted server.

    Args:
        replies: One for each request, on whatever connection it comes; the last is for all others,
            too. A tuple is written piece by piece. A function writes what it likes.
        ends: The connection is closed after a reply.
    """

    def __init__(self, *replies: Any, ends: bool = False) -> None:
        self.replies, self.ends = replies, ends
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.connections = self.open = self.port = self.written = 0
        self.tasks: list[Any] = []
        self.stop: Callable[[], None]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        self.connections += 1
        self.open += 1
        with suppress(asyncio.IncompleteReadError, OSError):  # the client has left
            await self.answer(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.open -= 1

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
            reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
            if callable(reply):
                await reply(self, writer)
            else:
                for piece in (reply,) if isinstance(reply, bytes) else reply:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
            if self.ends:
                return


class Tunnel(Server):
    """A proxy that answers a ``CONNECT``, and then relays bytes to a server on this machine."""

    def __init__(self, server: Server, *consent: bytes) -> None:
        super().__init__(consent)
        self.server = server

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in self.replies[0]:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if self.server.port:
            there = await asyncio.open_connection("127.0.0.1", self.server.port)
            await asyncio.gather(relayed(reader, there[1]), relayed(there[0], writer))


async def relayed(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
    with suppress(OSError):
        await sink.wait_closed()


@asynccontextmanager
async def listening(server: Server, tls: Any = None) -> AsyncIterator[None]:
    """Start a scripted server; it stops when its clients have left."""
    started = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port, server.stop = started.sockets[0].getsockname()[1], started.close
    try:
        yield
    finally:
        started.close()
        await asyncio.gather(*server.tasks)


@asynccontextmanager
async def client_of(
    server: Server, host: str = "127.0.0.1", tls: Any = None, headers: Any = dict
) -> AsyncIterator[Callable[..., Any]]:
    """From nothing to a response of that server, as often as it is called."""
    async with listening(server, tls):
        url = f"{'https' if tls else 'http'}://{host}:{server.port}/v1"
        connections = Connections(lambda: asyncio.sleep(0))
        client = HttpClient(url, api_key=None, headers=headers, connections=connections)
        try:
            yield lambda body=None: client.request("POST", url, seconds=5, body=body)
        finally:
            await client.aclose()


async def body_of(request: Callable[..., Any], body: bytes | None = None) -> bytes:
    async with request(body) as response:
        return bytes(await response.read(5))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def hang_up(server: Server, writer: asyncio.StreamWriter) -> None:
    writer.close()


def flood(beginning: bytes, repeated: bytes) -> Any:
    """A reply without end."""

    async def write(server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(repeated)
            await writer.drain()
            server.written += len(repeated)
            await asyncio.sleep(0)

    return write


def long(data: bytes, *headers: bytes, http: bytes = HTTP) -> bytes:
    """A response with a length."""
    return b"\r\n".join([http + b"Content-Length: %d" % len(data), *headers, b"", data])


def chunks(size: str = "{:x}", trailers: bytes = b"") -> bytes:
    """The body in chunks, the first of ten bytes."""
    pieces = [
        size.format(len(piece)).encode() + b"\r\n" + piece + b"\r\n"
        for piece in (BODY[:10], BODY[10:])
    ]
    return b"".join([CHUNKED, *pieces, size.format(0).encode(), b"\r\n", trailers, b"\r\n"])
