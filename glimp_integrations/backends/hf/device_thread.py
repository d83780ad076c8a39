"""One thread for each device, on which all models of that device compute, one pass at a time.

There are two reasons. Two models that compute on the same cores at once slow each other down many
times over. And PyTorch modules are not made for concurrent calls. As requests, caches and batches
are touched on this thread only, nothing in this folder but this file needs a lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from glimp_integrations import forks

__all__ = ["DeviceThread", "Worker", "on"]

_log = logging.getLogger(__name__)


class Worker(Protocol):
    """A model that computes on a device."""

    def due(self, now: float) -> float | None:
        """Seconds until it should compute (0: now); ``None``: nothing to do."""

    def tick(self) -> None:
        """Compute one pass."""


class DeviceThread:
    """Runs jobs in order, and the passes of its workers in turn.

    Args:
        name: The device's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._workers: deque[Worker] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def join(self, worker: Worker) -> None:
        """Let a model compute on this thread; the thread starts if it is not running."""
        with self._changed:
            self._workers.append(worker)
            self._ensure_running()

    def leave(self, worker: Worker) -> None:
        """Remove a model. The thread ends with the last one, after the jobs that are waiting."""
        with self._changed:
            if worker in self._workers:
                self._workers.remove(worker)
            self._changed.notify()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a short job on the thread, before the next pass."""
        with self._changed:
            self._jobs.append(job)
            self._ensure_running()
            self._changed.notify()

    def _ensure_running(self) -> None:
        # It is not alive if it never started, ended with its last model, or belongs to the parent
        # process of a fork.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, name=f"glimp-{self.name}", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._workers and not self._jobs:
                    self._thread = None
                    return
                if not self._jobs and (wait := self._wait()) != 0:
                    self._changed.wait(wait)
                jobs, self._jobs = self._jobs, deque()
            for job in jobs:
                try:
                    job()
                except Exception:  # other requests still need this thread
                    _log.exception("a job on %s failed", self.name)
            # Jobs run again after every single pass, so a cancellation or a new request waits for
            # one pass at most.
            if (worker := self._next()) is not None:
                worker.tick()

    def _next(self) -> Worker | None:
        """The next worker that is due; they take turns."""
        with self._changed:
            now = time.monotonic()
            for _ in range(len(self._workers)):
                self._workers.rotate(-1)
                if self._workers[-1].due(now) == 0:
                    return self._workers[-1]
        return None

    def _wait(self) -> float | None:
        """Seconds until a worker is due; ``None``: until something changes."""
        now = time.monotonic()
        waits = [w for worker in self._workers if (w := worker.due(now)) is not None]
        return min(waits, default=None)


_threads: dict[str, DeviceThread] = {}
_lock = threading.Lock()


def on(device: str) -> DeviceThread:
    """The thread of a device."""
    with _lock:
        return _threads.setdefault(device, DeviceThread(device))


def _forget_parent() -> None:
    global _lock
    forks.keep(dict(_threads))
    _lock = threading.Lock()
    _threads.clear()


forks.in_child(_forget_parent)
