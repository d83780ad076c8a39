"""What an arm of :mod:`benchmarks.lab.crowd` is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from benchmarks.lab.script import Script

__all__ = ["Arm", "Cell", "Reply", "Started", "Work", "against_aiohttp", "question"]


@dataclass(frozen=True)
class Work:
    """What one process is to do; ``scripts``: the first is for warming up."""

    arm: str
    at_once: int
    small: str
    large: str
    strategy: str
    scripts: Sequence[Script]


@dataclass(frozen=True)
class Cell:
    """The figures of one arm at one number of concurrent conversations.

    Attributes:
        arm: Its name.
        at_once: How many conversations run at the same time.
        tokens: The tokens of all of them together.
        seconds: From the first question to the last answer.
        p50: Median seconds of a conversation.
        p95: 95th percentile of them.
        client_cpu: CPU seconds of the models' client; of ``glimp serve`` where that is it.
        server_cpu: CPU seconds of the small and the large server.
        connections: Opened at the small and the large server, those of the warm-up left out.
        requests: Completions at the small and the large server.
        memory: Bytes by which the resident memory of the models' client grew, at its highest.
        counting_cpu: CPU seconds of the client in front of ``glimp serve``, which does nothing with
            what it gets; ``None`` in the other arms.
    """

    arm: str
    at_once: int
    tokens: int
    seconds: float
    p50: float
    p95: float
    client_cpu: float
    server_cpu: tuple[float, float]
    connections: tuple[int, int]
    requests: tuple[int, int]
    memory: int
    counting_cpu: float | None = None

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds of the models' client for 1,000 tokens."""
        return 1000 * self.client_cpu / self.tokens


def against_aiohttp(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each cell against the bare aiohttp client of the same run at the same number.

    Returns:
        For each cell that has one: ``arm``, ``at_once``, and ratios: ``rate`` (tokens a second),
        ``cpu`` (CPU seconds for 1,000 tokens).
    """
    bare = {cell.at_once: cell for cell in cells if cell.arm == "aiohttp"}
    return [
        {
            "arm": cell.arm,
            "at_once": cell.at_once,
            "rate": cell.rate / bare[cell.at_once].rate,
            "cpu": cell.cpu_per_1000 / bare[cell.at_once].cpu_per_1000,
        }
        for cell in cells
        if cell.at_once in bare and bare[cell.at_once].client_cpu
    ]


@dataclass(frozen=True)
class Reply:
    """One conversation.

    Attributes:
        seconds: From the question to the end.
        text: Its text; where nobody routes, its number of tokens; behind ``glimp serve``, the bytes
            that came, which are read when the measuring is over.
    """

    seconds: float
    text: str | int | bytes


class Run(Protocol):
    """From numbers of scripts to the replies, all at once."""

    def __call__(self, chains: Sequence[int]) -> list[Reply]: ...


@dataclass(frozen=True)
class Started:
    """An arm that is ready.

    Attributes:
        run: Talks.
        process: The process that talks to the models; ``None``: this one.
        running: What ends it.
    """

    run: Run
    process: psutil.Process | None = None
    running: AbstractContextManager[Any] = field(default_factory=nullcontext)


class Arm(Protocol):
    """Makes an arm ready."""

    def __call__(self, work: Work) -> Started: ...


def question(chain: int) -> str:
    """What is asked."""
    return f"chain {chain}"
