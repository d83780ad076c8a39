"""Models that stop in the middle until a test lets them go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from scripts import Listening, pair

from glimp_integrations.backends.base import Report, Request, Token


class Held(Listening):
    """Streams that wait at a token.

    Args:
        after: So many tokens of a stream come before it waits, at each further one.

    Attributes:
        reports: What was reported of each stream.
        stopping_seconds: How long it takes to stop.
        free: Set: nothing waits.
        waiting: How many streams wait.
        cancelled: How many were closed while they waited.
    """

    def __init__(self, *args: Any, after: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self._after = after
        self.reports: list[Report] = []
        self.stopping_seconds = 0.0
        self.free = threading.Event()
        self.waiting = self.cancelled = 0

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self.reports.append(report)
        async with aclosing(super().generate(request, report)) as tokens:  # type: ignore[type-var]
            count = 0
            async for token in tokens:
                if self._after == 0:
                    await self._wait()
                yield token
                count += 1
                if count >= self._after > 0:
                    await self._wait()

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            while not self.free.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            await asyncio.sleep(self.stopping_seconds)
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


def held_pair(*behind: str, **options: Any) -> dict[str, Any]:
    """A pair whose large model waits after its first token, or as ``Held`` is told."""
    behind = behind or ("It", " is", " four", ".")
    models = pair(*behind)
    return {**models, "large": pair(*behind, kind=Held, **options)["large"]}


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
