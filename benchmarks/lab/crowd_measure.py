"""The process that one arm of :mod:`benchmarks.lab.crowd` is measured in."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import psutil

from benchmarks.lab.crowd_arms import ARMS, count
from benchmarks.lab.crowd_cells import Reply, Work
from benchmarks.lab.serving import text_of

__all__ = ["cpu_of", "measure"]


def measure(work: Work, pipe: Connection) -> None:
    """Warm up, say "ready", wait for "go", talk, and send the figures."""
    try:
        started = ARMS[work.arm](work)
        with started.running:
            run, process = started.run, started.process or psutil.Process()
            run([0])
            gc.collect()
            pipe.send("ready")
            pipe.recv()
            chains = range(1, work.at_once + 1)
            with Peak(process) as peak:
                own, cpu, clock = time.process_time(), cpu_of(process), time.perf_counter()
                replies = run(chains)
                seconds, cpu = time.perf_counter() - clock, cpu_of(process) - cpu
                own = time.process_time() - own
            _check(work, replies)
        each = [one.seconds for one in replies]
        twentieths = statistics.quantiles(each, n=20, method="inclusive") if each[1:] else each
        pipe.send(
            {
                "tokens": sum(count(work.scripts[chain]) for chain in chains),
                "seconds": seconds,
                "p50": statistics.median(each),
                "p95": twentieths[-1],
                "client_cpu": own if started.process is None else cpu,
                "memory": peak.growth,
                "counting_cpu": None if started.process is None else own,
            }
        )
    except BaseException as error:  # sent to the process that shows it
        pipe.send(f"{work.arm}, {work.at_once} at once: {type(error).__name__}: {error}")
        raise


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a process took so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _check(work: Work, replies: Sequence[Reply]) -> None:
    """Check that every reply is what its script says.

    Raises:
        RuntimeError: One is another text, or has no end.
    """
    for chain, one in enumerate(replies, 1):
        script = work.scripts[chain]
        # Steps hold neither the tag nor the blank line after it; an answer begins with no blank.
        reasoning, _, answer = script.text.partition("</think>\n\n")
        came: str | int
        whole: str | int
        if isinstance(one.text, bytes):
            came, whole = text_of(one.text), reasoning + answer.lstrip()
        else:
            came = one.text
            whole = count(script) if isinstance(came, int) else reasoning + answer
        if came != whole:
            raise RuntimeError(f"conversation {chain} came to {came!r} instead of {whole!r}")


class Peak:
    """The growth of a process' resident memory at its highest, looked at 20 times a second.

    Attributes:
        base: Bytes at the beginning.
        growth: Bytes above that.
    """

    growth = 0

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def __enter__(self) -> Peak:
        self.base: int = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._note()

    def _note(self) -> None:
        self.growth = max(self.growth, self._process.memory_info().rss - self.base)
