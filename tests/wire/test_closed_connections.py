"""A server may close a kept connection just when the next request is sent on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from glimp_integrations import BackendError, io_loop
from glimp_integrations.backends import OpenAIBackend
from glimp_integrations.backends.base import CALL_LIMITS
from glimp_integrations.backends.http.replies import Anything

REPLY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'


class Closing:
    """Answers so many requests of each connection, and closes it when it has read another.

    A scripted server: nothing else closes at that moment reliably.
    """

    def __init__(self, answered: int) -> None:
        self.answered, self.requests, self.connections = answered, 0, 0

    async def read(self, reader: asyncio.StreamReader) -> None:
        """A request whose body is ``{}``."""
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for _ in range(self.answered):
            await self.read(reader)
            self.requests += 1
            writer.write(REPLY)
            await writer.drain()
        try:
            await self.read(reader)
            self.requests += 1
        except asyncio.IncompleteReadError:
            pass  # the client was first
        writer.close()


def asked(server: Closing, times: int) -> list[Any]:
    """The replies to so many requests, none of which may be retried."""

    async def ask() -> list[Any]:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        backend = OpenAIBackend("m", base_url=f"http://127.0.0.1:{port}/v1")
        try:
            CALL_LIMITS.set((20.0, 0))
            return [await backend.post("/tokenize", {}, Anything) for _ in range(times)]
        finally:
            await backend.aclose()
            listening.close()

    return io_loop.call(ask)


def test_the_request_takes_another_one() -> None:
    server = Closing(answered=1)
    assert asked(server, 3) == [{"a": 1}] * 3
    assert (server.connections, server.requests) == (3, 5), "two of them were sent twice"


def test_a_new_connection_that_is_closed_is_a_failure() -> None:
    server = Closing(answered=0)
    with pytest.raises(BackendError, match="broke the connection"):
        asked(server, 1)
    assert server.connections == 1
