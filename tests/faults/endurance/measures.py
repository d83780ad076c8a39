"""What the client's process holds, sampled, and whether that grows."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from glimp_integrations import io_loop

__all__ = ["JUDGED_FROM", "LONG_ENOUGH", "Line", "Sample", "grown", "line_through", "sample"]

JUDGED_FROM = 1 / 3
"""Before this share of the time caches fill, and threads and pools come to their size."""
LONG_ENOUGH = 60.0
"""Seconds; a shorter run is all beginning, and says nothing about growth."""
MIB = 2.0**20
_HOURS = 1 / 3600


@dataclass(frozen=True)
class Sample:
    """What the process held at one moment.

    Attributes:
        seconds: Since the conversations began.
        rss: Resident memory, in bytes.
        descriptors: Open file descriptors.
        tasks: Tasks on the loop of all models and on the callers' one.
        threads: Threads of Python.
        blocks: Blocks of memory that Python's own allocator has given out.
    """

    seconds: float
    rss: int
    descriptors: int
    tasks: int
    threads: int
    blocks: int


@dataclass(frozen=True)
class Line:
    """A straight line through samples.

    Attributes:
        begin: Its value at the first of them.
        rise: How much higher it is at the last one.
        slope: Rise per hour.
        error: Standard error of the rise.
    """

    begin: float
    rise: float
    slope: float
    error: float


async def sample(seconds: float) -> Sample:
    """Sample this process."""

    async def on_loop() -> int:
        return len(asyncio.all_tasks())

    tasks = len(asyncio.all_tasks()) + await io_loop.acall(on_loop)
    process = psutil.Process()
    return Sample(
        seconds=seconds,
        rss=process.memory_info().rss,
        descriptors=process.num_fds(),
        tasks=tasks,
        threads=threading.active_count(),
        blocks=sys.getallocatedblocks(),
    )


def line_through(times: Sequence[float], values: Sequence[float]) -> Line:
    """The line of least squares.

    Args:
        times: In seconds, at least three, rising.
        values: One for each.
    """
    n = len(times)
    middle, mean = sum(times) / n, sum(values) / n
    spread = sum((t - middle) ** 2 for t in times)
    slope = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread
    off = sum((v - mean - slope * (t - middle)) ** 2 for t, v in zip(times, values, strict=True))
    length = times[-1] - times[0]
    error = (off / max(1, n - 2) / spread) ** 0.5 * length
    return Line(mean - slope * (middle - times[0]), slope * length, slope / _HOURS, error)


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Those after the beginning."""
    return [s for s in samples if s.seconds >= samples[-1].seconds * JUDGED_FROM]


def grown(samples: Sequence[Sample], at_once: int) -> list[str]:
    """What grows, in words.

    After the first third of the time a line is laid through the samples (least squares). Something
    grows if the line rises by more than twice its standard error, and by more than is allowed:
    memory by the larger of 6 MiB and 4 % of what it was; descriptors, tasks and threads by the
    larger of 16 and a quarter of the conversations at once. What is there for one conversation
    comes and goes, so one more of them left behind every now and then is soon above that.

    Args:
        samples: In the order of time.
        at_once: Conversations at once.
    """
    later = settled(samples)
    if samples[-1].seconds < LONG_ENOUGH or len(later) < 5:
        return []
    found = []
    times = [s.seconds for s in later]
    for name in ("rss", "descriptors", "tasks", "threads"):
        line = line_through(times, [getattr(s, name) for s in later])
        few = max(16.0, at_once / 4)
        allowed = max(6 * MIB, 0.04 * line.begin) if name == "rss" else few
        if line.rise > max(allowed, 2 * line.error):
            unit, size = (" MiB", MIB) if name == "rss" else ("", 1.0)
            found.append(
                f"{name} grew from {line.begin / size:.0f} by {line.rise / size:.1f}{unit} in "
                f"{times[-1] - times[0]:.0f} s ({allowed / size:.1f} allowed)"
            )
    return found
