"""Connections to one server: measuring how far away it is, and keeping one connection ready.

Cancelling a stream closes its connection: HTTP/1.1 has no other way to stop a response. The next
request then has to wait for a new connection, which takes one round trip (two or more with TLS) in
addition to its own. Routing cancels a stream at most handovers from one model to the other, so for
every stream one more connection is kept ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from glimp_integrations import forks

__all__ = ["KEEPALIVE_SECONDS", "NEAR_SECONDS", "Connections"]

NEAR_SECONDS = 0.005
"""Round trips shorter than this mean a server close by, where new connections cost nothing."""

KEEPALIVE_SECONDS = 15.0
"""How long a connection without a request is kept."""

_WAIT_SECONDS = 5.0


class Connections:
    """The connections of one HTTP client.

    Args:
        poke: Makes a request that costs the server next to nothing, to open a connection.

    Attributes:
        opened: How many connections were opened so far.
        round_trip: Seconds of the quickest short request; ``None`` before the first.
    """

    def __init__(self, poke: Callable[[], Awaitable[object]]) -> None:
        self.opened = 0
        self.round_trip: float | None = None
        self._poke = poke
        self._making: asyncio.Task[None] | None = None
        # When the connections that have no request now were given back. The server may have
        # closed one since; a wrong count costs a round trip, or one connection.
        self._idle: list[float] = []

    def lent(self, *, was_used: bool) -> None:
        """Note that a request has a connection.

        Args:
            was_used: It carried another request before.
        """
        if not was_used:
            self.opened += 1
        elif self._idle:
            self._idle.pop()

    def answered(self, seconds: float) -> None:
        """Note how long a short request took that had its connection."""
        self.round_trip = min(seconds, self.round_trip or seconds)

    def given_back(self) -> None:
        """Note that a response was read to its end, and its connection waits for a request."""
        self._idle.append(time.monotonic())

    def make_ready(self) -> None:
        """Open a connection for the next request, if there is none and the server is far away.

        To be called when a stream has begun and when one was cancelled.
        """
        far = self.round_trip is not None and self.round_trip > NEAR_SECONDS
        if far and self._making is None and not self._has_idle():
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(lambda _: setattr(self, "_making", None))

    def forget_parent(self) -> None:
        """Called in a forked process: it has no connections yet."""
        forks.keep(self._making)
        self._making = None
        self._idle.clear()

    async def aclose(self) -> None:
        """Stop making connections."""
        self._idle.clear()
        if self._making is not None:
            self._making.cancel()
            with suppress(asyncio.CancelledError):
                await self._making

    async def _make(self) -> None:
        # Nothing waits for this. If it fails, the next request will fail, too, and report it.
        with suppress(Exception):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._poke()

    def _has_idle(self) -> bool:
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        self._idle = [since for since in self._idle if since > oldest]
        return bool(self._idle)
