"""How long a stream may go without a token."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, TypeVar

__all__ = ["TokenClock", "shows_progress"]

T = TypeVar("T")

# What a choice holds, beside a text, if the model has computed something since the choice before.
_PROGRESS = ("thought", "logprobs", "finish_reason", "ids", "token_ids")


def shows_progress(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of a stream says that the model has computed a token."""
    return bool(choice.get("text")) or any(choice.get(name) for name in _PROGRESS)


class TokenClock:
    """Counts the seconds a stream has been waited for since its last token.

    A server may keep a connection busy with comments, empty events or single bytes for ever, so
    the silence between bytes says nothing. The time in which nobody reads the stream is the
    reader's and does not count.

    One timer serves the whole stream: a timer for every token would cost as much as reading it.

    Args:
        seconds: How long to wait for each token; ``None`` for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self._left = self.seconds
        self._counted = 0
        self._since: float | None = None  # when the running wait began
        self._waiting: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False  # the timer ended the running wait

    async def wait(self, event: Awaitable[T]) -> T:
        """Wait for something from the server.

        Raises:
            TimeoutError: No token came in time.
        """
        if self._left <= 0:  # a flood: what comes is always there, and never a token
            if isinstance(event, Coroutine):
                event.close()
            raise TimeoutError
        if self._left == math.inf:
            return await event
        task = self._waiting = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()  # for another reason, before this
        self._since = time.monotonic()
        if self._timer is None:
            self._set_timer(self._left)
        try:
            return await event
        except asyncio.CancelledError:
            if self._is_over and task.uncancel() <= cancelled:
                raise TimeoutError from None
            raise
        finally:
            self.spend(time.monotonic() - self._since)
            self._since = self._waiting = None
            self._is_over = False

    def close(self) -> None:
        """Nothing more is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def spend(self, seconds: float) -> None:
        """Count time that went into reading what the server sent."""
        self._left -= seconds

    def reset(self, *, at_most: int | None = None) -> None:
        """A token has come.

        Args:
            at_most: How often this can be, for a sign of progress that a server could show without
                end; ``None`` for any number.
        """
        if at_most is not None:
            self._counted += 1
            if self._counted > at_most:
                return
        self._left = self.seconds
        if self._since is not None:  # it came while it was waited for something else
            self._since = time.monotonic()

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """End the wait if its time is over; otherwise look again when that may be."""
        self._timer = None
        if self._waiting is None or self._since is None:
            return  # the next wait sets it again
        left = self._left - (time.monotonic() - self._since)
        if left > 0:
            self._set_timer(left)
            return
        self._is_over = True
        self._waiting.cancel()
