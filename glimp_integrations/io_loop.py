"""One event loop for all model I/O, and the ways into it.

The routing loop is written once, as a coroutine. It runs on a loop of its own, in one background
thread per process, whoever calls: a script, a thread pool, a coroutine, a notebook cell inside a
running loop. That buys three things: no second copy of the loop for the sync API, HTTP clients
that are never shared between event loops, and streams that keep reading while a caller's own
loop is busy.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import queue
import selectors
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from glimp_integrations import forks
from glimp_integrations.deliveries import Deliveries
from glimp_integrations.job_threads import JobThreads

__all__ = ["DELIVER", "acall", "aiterate", "at_exit", "call", "iterate", "not_at_exit"]

T = TypeVar("T")

DELIVER: contextvars.ContextVar[Callable[[Any], None] | None] = contextvars.ContextVar(
    "DELIVER", default=None
)
"""Set where a generator is made whose items go to :func:`iterate` or :func:`aiterate`: gives the
reader an item at once, from wherever it comes up on the loop. It must come after what the generator
has yielded, and before what it yields next."""

# How long a closed stream may take to stop its request before the caller goes on without it.
_STOP_SECONDS = 10.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_selector: selectors.BaseSelector | None = None
_ending = False
_exit_hooks: dict[Callable[[], Awaitable[None]], None] = {}


def at_exit(hook: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function on the loop when the interpreter ends; named twice, it runs once."""
    _exit_hooks[hook] = None


def not_at_exit(hook: Callable[[], Awaitable[None]]) -> None:
    """Take :func:`at_exit` back: there is nothing left to close."""
    _exit_hooks.pop(hook, None)


def call(function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function on the loop and wait for its result.

    Raises:
        RuntimeError: Called from the loop's own thread, where waiting would wait for itself.
    """
    _refuse_to_wait_for_itself()
    work = _start(function)
    try:
        return work.future.result()
    except BaseException:
        work.stop()
        raise


async def acall(function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function on the loop; awaits from any other loop.

    Cancelling the caller cancels the work and waits until it has stopped.
    """
    loop = _callers_loop()
    work = _start(function)
    try:
        return await asyncio.wrap_future(work.future, loop=loop)
    except asyncio.CancelledError:
        await work.astop()
        raise


def iterate(make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
    """Iterate an async generator that runs on the loop, from synchronous code.

    The work begins with the first item, and sees the context variables of this call: a web
    framework may read a stream when the request's span is no longer the current one.
    """
    return _iterate(make, contextvars.copy_context())


def _iterate(
    make: Callable[[], AsyncGenerator[T, None]], context: contextvars.Context
) -> Iterator[T]:
    _refuse_to_wait_for_itself()
    items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    work = _start(lambda: _pump(make, items.put), context)
    try:
        while True:
            work.refuse_in_child()
            kind, value = items.get()
            if kind == "item":
                yield value
            elif kind == "end":
                return
            else:
                raise value
    finally:
        work.stop()


def aiterate(
    make: Callable[[], AsyncGenerator[T, None]], deliver: Callable[[T], None] | None = None
) -> AsyncGenerator[T, None]:
    """Iterate an async generator that runs on the loop, from another loop; see :func:`iterate`.

    Args:
        make: Makes it.
        deliver: For a server on the loop itself: the generator runs in the task that reads it, and
            some of its items may go here at once instead; see :data:`DELIVER`.
    """
    if deliver is None or _callers_loop() is not _loop:
        return _Items(make)
    before = DELIVER.set(deliver)
    try:
        return make()
    finally:
        DELIVER.reset(before)


class _Items(AsyncGenerator[T, None]):
    """Items of work on the loop, read from another.

    No async generator of Python's: a loop that ends closes all of those it knows at the same
    time, and one that another is just closing says so on standard error. A stream nobody closed
    ends when it has no reader left: its next item finds the reader's loop closed.
    """

    def __init__(self, make: Callable[[], AsyncGenerator[T, None]]) -> None:
        self._make = make
        self._context = contextvars.copy_context()
        self._items: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._work: _Work[None] | None = None
        self._over = False

    async def asend(self, value: None) -> T:
        """The next item; nothing can be sent."""
        if self._over:
            raise StopAsyncIteration
        if self._work is None:
            # The work must not hold this object: where nobody else does, it is to end.
            here, items, make = _callers_loop(), self._items, self._make
            through = None
            # A server that runs on the loop itself needs no other thread to be woken up.
            if here is not _running_loop():
                through = _deliveries.setdefault(here, Deliveries(here))
            self._work = _start(lambda: _pump(make, items.put_nowait, through), self._context)
        self._work.refuse_in_child()
        try:
            kind, item = await self._items.get()
        except BaseException:
            await self.aclose()
            raise
        if kind == "item":
            result: T = item
            return result
        await self.aclose()
        raise item if kind == "error" else StopAsyncIteration

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None, /) -> T:
        """End the work, and raise."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """End the work, and wait until its generators are closed."""
        self._over = True
        work, self._work = self._work, None
        if work is not None:
            await work.astop()

    def __del__(self) -> None:
        if self._work is not None:
            self._work.cancel()


async def _pump(
    make: Callable[[], AsyncGenerator[T, None]],
    put: Callable[[tuple[str, Any]], None],
    through: Deliveries | None = None,
) -> None:
    if through is not None:
        put = through.to(put)

    def deliver(item: T) -> None:
        put(("item", item))

    DELIVER.set(deliver)
    try:
        async with aclosing(make()) as items:
            async for item in items:
                deliver(item)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        put(("error", error))
    else:
        put(("end", None))


def _refuse_to_wait_for_itself() -> None:
    if threading.current_thread() is _thread:
        raise RuntimeError(
            "a synchronous call was made from inside a backend's coroutine; await its async twin"
        )


def _callers_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "an asynchronous call needs a running asyncio loop, and this thread has none: use "
            "asyncio.run(...), or the call's synchronous twin"
        ) from None


@dataclass(slots=True)
class _Work(Generic[T]):
    """Work on the loop.

    Attributes:
        loop: Where it runs.
        future: Its result.
        done: Set when its generators are closed.
    """

    loop: asyncio.AbstractEventLoop
    future: Future[T] = field(default_factory=Future)
    done: threading.Event = field(default_factory=threading.Event)

    def refuse_in_child(self) -> None:
        """Refuse to wait for work of the process that this one was forked from.

        Raises:
            RuntimeError: It runs there, and will never go on here.
        """
        if self.loop is not _loop:
            raise RuntimeError(
                "this stream was begun before its process forked, and goes on there only: begin "
                "another one in this process"
            )

    def cancel(self) -> bool:
        """Cancel the work if it still runs here, and say whether it did."""
        # In a forked process its locks may be held by a thread that is not there.
        if self.loop is not _loop or self.done.is_set():
            return False
        self.future.cancel()
        return True

    def stop(self) -> None:
        """Cancel the work, and wait until its generators are closed."""
        if self.cancel():
            self.done.wait(_STOP_SECONDS)

    async def astop(self) -> None:
        """Asynchronous :meth:`stop`."""
        if self.cancel():
            # Shielded by a thread: a second cancellation must not leave the request running.
            await asyncio.to_thread(self.done.wait, _STOP_SECONDS)


def _ignore(_: object) -> None:
    return None


def _start(
    function: Callable[[], Awaitable[T]], context: contextvars.Context | None = None
) -> _Work[T]:
    loop = _running_loop()
    started: _Work[T] = _Work(loop)
    future, done = started.future, started.done
    # The caller's context variables (tracing spans, callbacks) stay visible to the work.
    context = contextvars.copy_context() if context is None else context

    async def work() -> None:
        try:
            result = await function()
        except BaseException as error:
            if _ending and isinstance(error, asyncio.CancelledError):
                # Only threads that end with the interpreter still wait for this. What they would
                # say of it on standard error helps nobody.
                return
            with suppress(InvalidStateError):  # cancelled meanwhile: nobody waits for it
                future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            with suppress(InvalidStateError):
                future.set_result(result)

    def begin() -> None:
        task = loop.create_task(work(), context=context)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        task.add_done_callback(lambda _: done.set())
        future.add_done_callback(
            lambda f: _ignore(loop.call_soon_threadsafe(task.cancel)) if f.cancelled() else None
        )

    loop.call_soon_threadsafe(begin)
    return started


_tasks: set[asyncio.Task[None]] = set()
_deliveries: WeakKeyDictionary[asyncio.AbstractEventLoop, Deliveries] = WeakKeyDictionary()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            loop = _new_loop()
            loop.set_default_executor(JobThreads())
            thread = threading.Thread(target=loop.run_forever, name="glimp-io", daemon=True)
            thread.start()
            _loop, _thread = loop, thread
        if _ending and not threading.current_thread().daemon:
            raise RuntimeError(
                "the interpreter is ending, and the models' connections are closed: make the call "
                "before the program ends"
            )
        return _loop


def _new_loop() -> asyncio.AbstractEventLoop:
    global _selector
    if not hasattr(os, "fork"):
        return asyncio.new_event_loop()
    # A forked process has to know which sockets are its parent's.
    _selector = selectors.DefaultSelector()
    return asyncio.SelectorEventLoop(_selector)


def _shut_down() -> None:
    global _ending
    _ending = True
    if _loop is None or _thread is None or not _thread.is_alive():
        return

    async def finish() -> None:
        for task in list(_tasks):
            task.cancel()
        for hook in list(_exit_hooks):
            with suppress(Exception):  # the process is ending; nobody can act on it
                await asyncio.wait_for(hook(), 5.0)

    asyncio.run_coroutine_threadsafe(finish(), _loop).result(timeout=20.0)
    _loop.call_soon_threadsafe(_loop.stop)
    _thread.join(timeout=5.0)


def _forget_parent() -> None:
    # Threads do not survive a fork: the child starts its own loop on first use.
    global _loop, _thread, _lock, _selector
    if _loop is not None:
        forks.keep(*_tasks)
        forks.drop_loop(_loop, _selector)
    _lock = threading.Lock()
    _loop = _thread = _selector = None
    _tasks.clear()
    _deliveries.clear()


atexit.register(_shut_down)
forks.in_child(_forget_parent)
