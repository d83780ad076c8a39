"""How long a stream may go without a token."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

__all__ = ["TokenClock", "shows_progress"]

T = TypeVar("T")

# What a choice holds if the model has computed something since the choice before.
_PROGRESS = ("text", "thought", "logprobs", "finish_reason", "ids", "token_ids")


def shows_progress(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of a stream says that the model has computed a token."""
    return any(choice.get(name) for name in _PROGRESS)


class TokenClock:
    """Counts the seconds a stream has been waited for since its last token.

    A server may keep a connection busy with comments, empty events or single bytes for ever, so
    the silence between bytes says nothing. The time in which nobody reads the stream is the
    reader's and does not count.

    Args:
        seconds: How long to wait for each token; ``None`` for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self._left = self.seconds
        self._counted = 0

    async def wait(self, event: Awaitable[T]) -> T:
        """Wait for something from the server.

        Raises:
            TimeoutError: No token came in time.
        """
        if self._left <= 0:  # a flood: what comes is always there, and never a token
            raise TimeoutError
        started = time.monotonic()
        try:
            async with asyncio.timeout(None if self._left == math.inf else self._left):
                return await event
        finally:
            self.spend(time.monotonic() - started)

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
