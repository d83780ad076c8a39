"""How much is served at a time: rates of each key, and how many conversations run and wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from glimp_integrations.openai_api.errors import overloaded, shutting_down

__all__ = ["Places", "Rate"]


class Rate:
    """A token bucket that may go into debt: what something takes is often known only afterwards.

    It holds one minute's worth at most, so a client that was silent may take that at once.

    Args:
        per_minute: So much becomes available per minute; ``None``: without limit.
        clock: Seconds, from any beginning.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute or 0)
        self._seen = clock()

    def wait(self, needed: float = 1.0) -> float:
        """Seconds until so much is there; 0: it is."""
        if self.per_minute is None:
            return 0.0
        self._refill(self.per_minute)
        return max(0.0, (needed - self._left) * 60.0 / self.per_minute)

    def take(self, amount: float = 1.0) -> None:
        """Take so much, whether it is there or not."""
        if self.per_minute is not None:
            self._refill(self.per_minute)
            self._left -= amount

    def _refill(self, per_minute: int) -> None:
        now = self._clock()
        gained = (now - self._seen) * per_minute / 60.0
        self._left = min(float(per_minute), self._left + gained)
        self._seen = now


class Places:
    """The conversations that run, and a queue of bounded length behind them, first come first.

    Args:
        most: Conversations that run at a time.
        queue: Conversations that may wait.
        seconds: The longest that one waits.
    """

    def __init__(self, most: int, queue: int, seconds: float) -> None:
        self._most, self._queue, self._seconds = most, queue, seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self.closed = False

    @property
    def waiting(self) -> int:
        """Conversations that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place; wait for one if need be.

        Raises:
            ApiError: The queue is full (429), the wait was too long (429), or the server ends
                (503).
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Let nobody in any more, and send those away who wait."""
        self.closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(shutting_down())

    async def _enter(self) -> None:
        if self.closed:
            raise shutting_down()
        if self.running < self._most and not self._waiting:
            self.running += 1
            return
        if len(self._waiting) >= self._queue:
            raise overloaded(
                f"{self.running} conversations run and {self.waiting} wait, which is all this "
                "server takes at a time: try again later",
                retry_after=5.0,
                code="too_many_conversations",
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._seconds):
                await waiter
        except BaseException as error:
            granted = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            if granted:
                self._leave()  # the place came at the moment at which nobody wanted it any more
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            if isinstance(error, TimeoutError):
                raise overloaded(
                    f"no place became free within {self._seconds:g} seconds: try again later",
                    retry_after=5.0,
                    code="too_many_conversations",
                ) from None
            raise

    def _leave(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)  # the place is handed on
                return
        self.running -= 1
