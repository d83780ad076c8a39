"""A run from its beginning to its end: servers, one pair of backends, a crowd, and samples."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.http import client, event_stream
from glimp_integrations.backends.http.openai import OpenAIBackend

from ..cases import ROLES
from ..replies import TEMPLATE
from ..report import tasks_left
from .crowd import KEY, Crowd
from .measures import Sample, grown, sample
from .report import Report, progress
from .servers import Servers
from .serving import shapes_of

__all__ = ["Plan", "run"]

_BEAT, _PAUSE = 0.1, 0.5
_REST_SECONDS = 5.0
_LONGEST = 2 * 2**20


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
        only: What the names of the faults' kinds have to contain.
    """

    seconds: float
    at_once: int = 64
    faults: float = 0.02
    seed: int = 1
    timeout: float = 10.0
    every: float = 10.0
    only: str = ""


def run(plan: Plan, show: Callable[[str], None] = lambda _: None) -> Report:
    """Hold the conversations of a plan.

    Args:
        plan: What is held.
        show: Takes lines about the progress.
    """
    with (
        Servers(plan.seed, plan.faults, plan.only) as servers,
        _noticed() as texts,
        _short_bodies(),
    ):
        report = asyncio.run(_run(plan, servers, show))
        gc.collect()  # what was left open says so when it goes
        report.warnings = texts
        return report


@contextmanager
def _short_bodies() -> Iterator[None]:
    """Read less of a body without an end, so that its memory does not hide what grows."""
    longest = client.MAX_BODY_BYTES, event_stream.MAX_EVENT_BYTES
    client.MAX_BODY_BYTES = event_stream.MAX_EVENT_BYTES = _LONGEST
    try:
        yield
    finally:
        client.MAX_BODY_BYTES, event_stream.MAX_EVENT_BYTES = longest


@contextmanager
def _noticed() -> Iterator[list[str]]:
    """Warnings of asyncio, and of things that nobody closed."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ResourceWarning)
            warnings.simplefilter("always", RuntimeWarning)
            warnings.showwarning = lambda message, *_, **__: texts.append(str(message))
            yield texts
    finally:
        logger.removeHandler(handler)


async def _run(plan: Plan, servers: Servers, show: Callable[[str], None]) -> Report:
    before = await sample(0.0)
    shapes = shapes_of(plan.seed)
    backends = {
        role: OpenAIBackend(
            f"{role}-model" if plan.seed % 4 else None,
            base_url=servers.urls[role],
            api_key=KEY,
            chat_template=TEMPLATE if shapes[role] == "generic" else None,
        )
        for role in ROLES
    }
    router = GlimpRouter(
        route="always",
        **backends,
        threshold=1.0,
        temperature=0.0,
        think_tags=("<think>", "</think>"),
    )
    crowd = Crowd(servers, plan.seed, plan.timeout, router=router, show=show)
    show(f"servers: small {shapes['small']}, large {shapes['large']}; {plan}")
    samples: list[Sample] = []
    began = time.monotonic()
    watch = [
        asyncio.create_task(_sampled(plan, crowd, samples, began, show)),
        asyncio.create_task(_beats(crowd)),
    ]
    lost = await crowd.hold(plan.at_once, plan.seconds)
    for task in watch:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    took = time.monotonic() - began
    crowd.listen()
    state = await asyncio.to_thread(servers.state)
    crowd.listen()
    tasks = [] if lost else await tasks_left()
    for backend in backends.values():
        await io_loop.acall(backend.aclose)
    return Report(
        at_once=plan.at_once,
        crowd=crowd,
        samples=samples,
        grown=grown(samples, plan.at_once) if samples else [],
        lost=lost,
        tasks=tasks,
        descriptors_left=await _descriptors_left(before),
        state=state,
        took=took,
    )


async def _descriptors_left(before: Sample) -> int:
    """How many more descriptors are open than in the beginning, once connections had time to go."""
    until = time.monotonic() + _REST_SECONDS
    while True:
        gc.collect()
        left = (await sample(0.0)).descriptors - before.descriptors
        if left <= 0 or time.monotonic() > until:
            return max(0, left)
        await asyncio.sleep(0.05)


async def _sampled(
    plan: Plan, crowd: Crowd, samples: list[Sample], began: float, show: Callable[[str], None]
) -> None:
    number = 0
    while (number + 1) * plan.every <= plan.seconds + 0.01:
        number += 1
        await asyncio.sleep(max(0.0, began + number * plan.every - time.monotonic()))
        crowd.listen()
        samples.append(await sample(time.monotonic() - began))
        show(progress(crowd, samples))
    show(f"time is over; waiting for {crowd.started - crowd.ended} conversations")


async def _beats(crowd: Crowd) -> None:
    """Note when this process could do nothing for a while."""
    while True:
        before: Any = time.monotonic()
        await asyncio.sleep(_BEAT)
        if (took := time.monotonic() - before) > _PAUSE:
            crowd.paused(took)
        crowd.listen()
