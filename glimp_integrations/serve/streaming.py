"""Server-sent events of a reply, and work that ends when its client is gone.

Format: WHATWG, HTML, section 9.2.6, as OpenAI's API uses it: one ``data:`` line a chunk, and
``[DONE]`` at the end. An error in the middle of a stream is a ``data:`` line with an ``error``, and
the stream ends with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from enum import Enum, auto
from typing import Any, TypeVar

import anyio
from starlette.requests import Request

from glimp_integrations.openai_api.errors import ApiError, shutting_down
from glimp_integrations.openai_api.replies import Chunks
from glimp_integrations.trace.events import Event

__all__ = ["ClientGoneError", "Stream", "while_connected"]

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
_KEEPALIVE = b": the models are at work\n\n"


class _Silence(Enum):
    """Stands for a while in which nothing came."""

    SILENCE = auto()


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads what would be answered."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that is cancelled when the client closes the connection.

    The request's body has to be read before.

    Raises:
        ClientGoneError: The client is gone, and the work has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        await _stopped(task)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stopped(task: asyncio.Future[Any]) -> None:
    """Cancel work, and wait for its end."""
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


class Stream:
    """The body of a streamed reply.

    Args:
        make: Makes the events of what is answered, from a function that takes some of them at once.
        chunks: Makes JSON of it.
        keepalive: Seconds of silence after which a comment is sent.
        failed: Called with an error that ends the stream after its beginning.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Event], None]], AsyncGenerator[Event, None]],
        chunks: Chunks,
        *,
        keepalive: float,
        failed: Callable[[ApiError], None],
    ) -> None:
        self._chunks, self._keepalive, self._failed = chunks, keepalive, failed
        self._items: asyncio.Queue[Event | ApiError | _Silence | None] = (
            asyncio.Queue()
        )  # None: end
        self._begun: list[Event | None] = []
        self._came = False  # something, since the last look
        self._looking = asyncio.get_running_loop().call_later(keepalive, self._look)
        self._task = asyncio.create_task(self._read(make(self._put)))

    async def begin(self) -> None:
        """Wait for the first event, for a while, so that what fails at once has a status.

        Raises:
            ApiError: The conversation failed before it began.
        """
        item = await self._items.get()
        if isinstance(item, ApiError):
            raise item
        if item is not _Silence.SILENCE:
            self._begun.append(item)

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events. Closing the iterator stops both models."""
        try:
            yield _event(self._chunks.first())
            while True:
                item = self._begun.pop() if self._begun else await self._items.get()
                if item is _Silence.SILENCE:
                    yield _KEEPALIVE
                    continue
                if item is None:
                    yield DONE
                    return
                if isinstance(item, ApiError):
                    self._failed(item)
                    yield _event(json.dumps(item.body, ensure_ascii=False).encode())
                    return
                for chunk in self._chunks.of(item):
                    yield _event(chunk)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop both models, and wait for it."""
        self._looking.cancel()
        # Starlette cancels the body of a client that is gone at each of its awaits.
        with anyio.CancelScope(shield=True):
            await _stopped(self._task)

    def _look(self) -> None:
        """Say that nothing has come for a while. One timer a stream, and not one a token."""
        if not self._came:
            self._items.put_nowait(_Silence.SILENCE)
        self._came = False
        self._looking = asyncio.get_running_loop().call_later(self._keepalive, self._look)

    def _put(self, event: Event) -> None:
        self._came = True
        self._items.put_nowait(event)

    async def _read(self, events: AsyncGenerator[Event, None]) -> None:
        last: ApiError | None = shutting_down()  # what a reader gets of a task that is cancelled
        try:
            async with aclosing(events):
                async for event in events:
                    self._put(event)
            last = None
        except ApiError as error:
            last = error
        finally:
            self._items.put_nowait(last)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
