"""Items for readers on another event loop, which go there together where many streams write."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

__all__ = ["Deliveries"]

_TOGETHER = 0.002  # seconds


class _Delivery(NamedTuple):
    put: Callable[[Any], None]
    item: Any
    writer: asyncio.Task[Any]  # whose item it is


class Deliveries:
    """What goes to the readers on one loop; used on the writers' loop only.

    Waking up a thread costs more than reading a token. So what follows the last delivery within
    2 ms waits until these are over, and goes with all that has come by then. A stream alone is
    not held up: its tokens are further apart.

    Args:
        there: The readers' loop. It is not kept alive: a program may begin one for every call.
    """

    def __init__(self, there: asyncio.AbstractEventLoop) -> None:
        self._there = weakref.ref(there)
        self._waiting: list[_Delivery] = []
        self._last = -math.inf

    def to(self, put: Callable[[Any], None]) -> Callable[[Any], None]:
        """Calls a function with items on the readers' loop, each after all that came before.

        They are those of the running task. If that loop is closed, nobody reads any more: the task
        is cancelled.
        """
        writer = asyncio.current_task()
        assert writer is not None  # coroutines run in tasks
        return partial(self._put, put, writer)

    def _put(self, put: Callable[[Any], None], writer: asyncio.Task[Any], item: Any) -> None:
        self._waiting.append(_Delivery(put, item, writer))
        if len(self._waiting) > 1:
            return
        here = asyncio.get_running_loop()
        if (wait := self._last + _TOGETHER - here.time()) > 0:
            here.call_later(wait, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        together, self._waiting = self._waiting, []
        self._last = asyncio.get_running_loop().time()
        try:
            if (there := self._there()) is not None:
                there.call_soon_threadsafe(_put_all, together)
                return
        except RuntimeError:  # it is closed
            pass
        for delivery in together:
            delivery.writer.cancel()


def _put_all(together: list[_Delivery]) -> None:
    for delivery in together:
        delivery.put(delivery.item)
