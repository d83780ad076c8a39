"""Threads for blocking work of an event loop: importing, loading, asking the name service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["JobThreads"]

T = TypeVar("T")
P = ParamSpec("P")


class JobThreads(ThreadPoolExecutor):
    """An executor that starts a thread for every job.

    Python's own refuses jobs as soon as the main thread has ended, although other threads may go
    on, and its threads hold up the end of the interpreter until their jobs are done.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a thread of its own; in this one where no thread starts any more."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        thread: Any = threading.Thread(target=work, name="glimp-job", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or the system has no thread left
            work()
        return future
