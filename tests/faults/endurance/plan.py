"""What is held in a run, and the watch over it while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .holding import Holding
from .measures import Sample
from .report import progress

__all__ = ["Plan", "watched"]

_BEAT, _PAUSE = 0.1, 0.5


@dataclass(frozen=True)
class Plan:
    """What is held.

    Attributes:
        seconds: For so long conversations begin.
        at_once: So many at the same time.
        faults: Share of the requests that get a fault.
        seed: Decides conversations and faults.
        timeout: Seconds to wait for a token.
        every: Seconds between two samples.
        only: What the names of the faults' kinds have to contain; several with commas.
        serve: Whether all goes through ``glimp serve``, over servers that write at an even pace and
            kill streams, and whose texts are alike.
        kills: Share of those requests whose client closes the connection.
        pace: Seconds for a token of those servers.
        slowest: The slowest of their conversations that nobody disturbed may take so many times
            what the fastest took.
    """

    seconds: float
    at_once: int = 64
    faults: float = 0.02
    seed: int = 1
    timeout: float = 10.0
    every: float = 10.0
    only: str = ""
    serve: bool = False
    kills: float = 0.01
    pace: float = 0.04
    slowest: float = 2.0


@asynccontextmanager
async def watched(
    plan: Plan,
    crowd: Holding,
    samples: list[Sample],
    sample: Callable[[float], Awaitable[Sample]],
    began: float,
    show: Callable[[str], None],
) -> AsyncIterator[None]:
    """Take samples and notice pauses while conversations are held.

    Args:
        plan: What is held.
        crowd: Holds it.
        samples: Takes the samples.
        sample: Takes one, so many seconds after the beginning.
        began: The beginning, by :func:`time.monotonic`.
        show: Takes a line about each sample.
    """
    watch = [
        asyncio.create_task(_sampled(plan, crowd, samples, sample, began, show)),
        asyncio.create_task(_beats(crowd)),
    ]
    try:
        yield
    finally:
        for task in watch:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _sampled(
    plan: Plan,
    crowd: Holding,
    samples: list[Sample],
    sample: Callable[[float], Awaitable[Sample]],
    began: float,
    show: Callable[[str], None],
) -> None:
    number = 0
    while (number + 1) * plan.every <= plan.seconds + 0.01:
        number += 1
        await asyncio.sleep(max(0.0, began + number * plan.every - time.monotonic()))
        crowd.listen()
        samples.append(await sample(time.monotonic() - began))
        show(progress(crowd, samples))
    show(f"time is over; waiting for {crowd.started - crowd.ended} conversations")


async def _beats(crowd: Holding) -> None:
    """Note when this process could do nothing for a while."""
    while True:
        before: Any = time.monotonic()
        await asyncio.sleep(_BEAT)
        if (took := time.monotonic() - before) > _PAUSE:
            crowd.paused(took)
        crowd.listen()
