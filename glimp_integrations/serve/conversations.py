"""Conversations while they run: a place, the router, what is counted, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from glimp_integrations.errors import GlimpError
from glimp_integrations.openai_api.errors import ApiError, api_error, internal_error, shutting_down
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.router import GlimpRouter
from glimp_integrations.runtime.call import WHEN_OVER, WhenOver
from glimp_integrations.serve.keys import Client
from glimp_integrations.serve.limits import Places
from glimp_integrations.serve.metrics import LastHour, Metrics
from glimp_integrations.trace.events import Event, Finished, TextDelta
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["Asked", "Conversations"]


@dataclass(slots=True)
class Asked:
    """What a client asks.

    Attributes:
        client: Who.
        messages: The conversation.
        output: What the reply has to be.
        changes: Routing settings of this call.
        result: What came of it, once it is over; also of a conversation that its client left.
    """

    client: Client
    messages: list[dict[str, Any]]
    output: OutputSpec
    changes: dict[str, Any]
    result: RoutedAnswer | None = None


class Conversations:
    """All conversations of a server.

    Args:
        router: Answers.
        places: How many run.
        metrics: Counts.
        last_hour: Likewise.
    """

    def __init__(
        self, router: GlimpRouter, places: Places, metrics: Metrics, last_hour: LastHour
    ) -> None:
        self._router = router
        self.places = places
        self._metrics, self._last_hour = metrics, last_hour
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = False
        self.last_token = -float("inf")

    async def events(
        self, asked: Asked, deliver: Callable[[Event], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of a conversation. Closing the generator stops both models.

        Args:
            asked: The conversation.
            deliver: Takes text as it comes, where it is not yielded; ``None``: nobody is shown
                text before all of it is there. See :meth:`GlimpRouter.astream_to`.

        Raises:
            ApiError: It failed.
        """
        asking = asked.messages, asked.output
        async with self._running(asked):
            # Where the router runs in this task, it reads this when it begins.
            WHEN_OVER.set(self._counting(asked))
            if deliver is None:
                events = self._router.unstreamed(*asking, **asked.changes)
            else:
                events = self._router.astream_to(self._noting(deliver), *asking, **asked.changes)
            async with aclosing(events):
                async for event in events:
                    self._note(event)
                    yield event

    def _noting(self, deliver: Callable[[Event], None]) -> Callable[[Event], None]:
        def noted(event: Event) -> None:
            self._note(event)
            deliver(event)

        return noted

    def _note(self, event: Event) -> None:
        if isinstance(event, TextDelta | Finished):
            self.last_token = time.monotonic()

    def close(self) -> None:
        """Take no more conversations; those that run go on."""
        self.places.close()

    def end(self) -> None:
        """End those that still run; their clients get an error."""
        self._ended = True
        for task in self._tasks:
            task.cancel()

    @asynccontextmanager
    async def _running(self, asked: Asked) -> AsyncIterator[None]:
        """Around a conversation: its place, its account, and errors as clients get them."""
        task = asyncio.current_task()
        assert task is not None  # coroutines run in tasks
        began = time.monotonic()
        self._tasks.add(task)
        try:
            async with self.places.place():
                self._metrics.waited(time.monotonic() - began)
                yield
        except ApiError:
            raise
        except GlimpError as error:
            raise api_error(error) from None
        except asyncio.CancelledError:
            if not self._ended:
                raise
            task.uncancel()
            raise shutting_down() from None
        except Exception as error:
            raise internal_error(error, "a conversation was answered") from None
        finally:
            self._tasks.discard(task)

    def _counting(self, asked: Asked) -> WhenOver:
        """What the router tells of a conversation is counted, on this loop."""
        here = asyncio.get_running_loop()

        def over(result: RoutedAnswer, complete: bool) -> None:
            if asyncio.get_running_loop() is here:
                self._over(asked, result, complete)
            else:
                here.call_soon_threadsafe(self._over, asked, result, complete)

        return over

    def _over(self, asked: Asked, result: RoutedAnswer, complete: bool) -> None:
        asked.result = result
        self._metrics.reply(result.trace, result.usage, complete=complete)
        if complete:
            self._last_hour.reply(result.trace)
        asked.client.charge(result.usage.total_tokens)
