"""Connections to one server: measuring how far away it is, and keeping one connection ready.

Cancelling a stream closes its connection: HTTP/1.1 has no other way to stop a response, and the
HTTP/2 of our HTTP library does not tell the server at all. The next request then has to wait for a
new connection, which takes one round trip (two or more with TLS) in addition to its own. Routing
cancels a stream at most handovers from one model to the other, so for every stream one more
connection is kept ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Connections"]

NEAR_SECONDS = 0.005
"""Round trips shorter than this mean a server close by, where new connections cost nothing."""

_WAIT_SECONDS = 5.0


class Connections:
    """The connections of one HTTP client.

    Args:
        poke: Makes a request that costs the server next to nothing, to open a connection.
        headers: Returns headers to add to the request that is about to be sent. They are added
            here because the client logs the headers that are passed to it.

    Attributes:
        opened: How many connections were opened so far.
        round_trip: Seconds of the quickest short request; ``None`` before the first.
    """

    def __init__(
        self, poke: Callable[[], Awaitable[object]], *, headers: Callable[[], Mapping[str, str]]
    ) -> None:
        self.opened = 0
        self.round_trip: float | None = None
        self._poke = poke
        self._headers = headers
        self._making: asyncio.Task[None] | None = None

    def client(self, **options: Any) -> AsyncOpenAI:
        """A client whose connections are counted; options as for ``openai.AsyncOpenAI``."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(event_hooks={"request": [self._watch]})
        return AsyncOpenAI(http_client=http, **options)

    def make_ready(self, client: AsyncOpenAI) -> None:
        """Open a connection for the next request, if there is none and the server is far away.

        To be called when a stream has begun and when one was cancelled.
        """
        far = self.round_trip is not None and self.round_trip > NEAR_SECONDS
        if far and self._making is None and not _idle(client):
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(lambda _: setattr(self, "_making", None))

    async def aclose(self) -> None:
        """Stop making connections."""
        if self._making is not None:
            self._making.cancel()
            with suppress(asyncio.CancelledError):
                await self._making

    async def _make(self) -> None:
        # Nothing waits for this. If it fails, the next request will fail, too, and report it.
        with suppress(Exception):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._poke()

    async def _watch(self, request: Any) -> None:
        request.headers.update(self._headers())
        sent = 0.0

        async def trace(event: str, _: dict[str, Any]) -> None:
            nonlocal sent
            if event == "connection.connect_tcp.complete":
                self.opened += 1
            elif event.endswith("send_request_headers.started"):
                sent = time.perf_counter()
            elif event.endswith("receive_response_headers.complete") and request.method == "GET":
                took = time.perf_counter() - sent
                self.round_trip = took if self.round_trip is None else min(self.round_trip, took)

        request.extensions["trace"] = trace


def _idle(client: AsyncOpenAI) -> int:
    """How many connections wait for a request, as far as the HTTP library shows them."""
    transport = getattr(client._client, "_transport", None)
    pool = getattr(transport, "_pool", None)
    connections = getattr(pool, "connections", ())
    return sum(c.is_idle() and not c.has_expired() for c in connections)
