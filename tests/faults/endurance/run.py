"""A run from its beginning to its end: servers, one pair of backends, a crowd, and samples."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.http import client, event_stream
from glimp_integrations.backends.http.openai import OpenAIBackend

from ..cases import ROLES
from ..replies import TEMPLATE
from ..report import tasks_left
from .crowd import KEY, Crowd
from .measures import Sample, grown, sample
from .plan import Plan, watched
from .report import Report
from .served_run import run_served
from .servers import Servers
from .serving import shapes_of

__all__ = ["Plan", "run"]

_REST_SECONDS = 5.0
_LONGEST = 2 * 2**20


def run(plan: Plan, show: Callable[[str], None] = lambda _: None) -> Report:
    """Hold the conversations of a plan.

    Args:
        plan: What is held.
        show: Takes lines about the progress.
    """
    if plan.serve:
        return run_served(plan, show)
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
    await sample(0.0)  # which starts the loop of all models
    before = _open_descriptors()
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
    async with watched(plan, crowd, samples, sample, began, show):
        lost = await crowd.hold(plan.at_once, plan.seconds)
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


async def _descriptors_left(before: Counter[str]) -> int:
    """How many descriptors are open that were not before, once connections had time to go."""
    until = time.monotonic() + _REST_SECONDS
    while True:
        gc.collect()
        left = (_open_descriptors() - before).total()
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(0.05)


def _open_descriptors() -> Counter[str]:
    """What is open, by names of the kernel; where it does not tell them, all are one.

    Connections of others that close meanwhile must not hide what is left open.
    """
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return Counter(descriptor=psutil.Process().num_fds())
    open_ones: Counter[str] = Counter()
    for entry in list(folder.iterdir()):
        with suppress(FileNotFoundError):  # that of the folder itself
            open_ones[os.readlink(entry)] += 1
    return open_ones
