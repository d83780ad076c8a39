"""What a process forked from this one must not use: its threads, event loops and connections.

Only the thread that forks lives on in the child. A lock that another thread held is never released
there, an event loop that ran in another thread never runs again, and a socket is the parent's: what
the child wrote on it, or took out of the parent's ``epoll``, would be lost to the parent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from selectors import BaseSelector
from typing import Protocol

__all__ = ["LOADING", "Forgetful", "LoopLock", "drop_loop", "in_child", "keep"]

# Large models take minutes to load.
_WAIT_SECONDS = 300.0


class Loading:
    """Importing and loading, which a fork must not cut in two; a context manager.

    A module that another thread was importing stays half imported in the child for ever: whoever
    imports it there waits for a thread that does not exist. Loading a model imports hundreds of
    modules on the way. So a fork waits until it is done, for five minutes at most; after that the
    child has an error instead. Several threads may load at the same time, and the thread that
    loads may fork.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: dict[int, int] = {}  # how deep each thread is in it
        self._forking: int | None = None
        self._torn = False

    def __enter__(self) -> None:
        """Begin to load.

        Raises:
            RuntimeError: This process was forked while a thread of its parent was loading.
        """
        if self._torn:
            raise RuntimeError(
                "this process was forked while another thread was loading a model, and nothing "
                "can be loaded in it: fork when the first call is over, or start processes by "
                "the 'spawn' method"
            )
        me = threading.get_ident()
        with self._changed:
            # What has begun goes on: the fork waits for it.
            self._changed.wait_for(lambda: self._forking in (None, me) or me in self._threads)
            self._threads[me] = self._threads.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._changed:
            self._threads[me] -= 1
            if not self._threads[me]:
                del self._threads[me]
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until no other thread loads, and let none begin."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._forking is None)
            self._forking = me
            self._changed.wait_for(lambda: not self._threads.keys() - {me}, _WAIT_SECONDS)

    def after_in_parent(self) -> None:
        """Let other threads load again."""
        with self._changed:
            self._forking = None
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """Forget the parent's threads."""
        me = threading.get_ident()
        self._torn = self._torn or bool(self._threads.keys() - {me})
        self._threads = {me: self._threads[me]} if me in self._threads else {}
        self._changed, self._forking = threading.Condition(), None


LOADING = Loading()


class Forgetful(Protocol):
    """Something with state that belongs to this process."""

    def forget_parent(self) -> None:
        """Called in a forked process: drop what belongs to the parent, without closing it."""


_functions: list[Callable[[], None]] = []
_objects: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_kept: list[object] = []


def in_child(forgetful: Forgetful | Callable[[], None]) -> None:
    """Have something forget the parent in every process that is forked from this one.

    Args:
        forgetful: A function, or an object, which is not kept alive by this.
    """
    if callable(forgetful):
        _functions.append(forgetful)
    else:
        _objects.add(forgetful)


def keep(*things: object) -> None:
    """Never destroy the parent's objects in the child, not even when the child ends.

    Destroying them would close them: a server would wait for threads that are not there, and a
    TLS connection would say goodbye on the parent's socket.
    """
    if not _kept:
        with suppress(ImportError):  # optional in builds of Python
            import ctypes

            # The interpreter's end destroys what nothing outside of Python refers to.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))
    _kept.extend(things)


def drop_loop(loop: asyncio.AbstractEventLoop, selector: BaseSelector | None) -> None:
    """Drop the event loop of a thread that this process does not have.

    Args:
        loop: The parent's loop.
        selector: Its selector, if known. The child's copies of the sockets in it are closed: a
            server would not notice that the parent closed a connection while the child has it.
    """
    keep(loop, *asyncio.all_tasks(loop))
    loop.set_exception_handler(lambda *_: None)
    if selector is None:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    # Replaced instead of closed: the numbers must not come to mean other files of the child while
    # objects of the parent still hold them.
    for number in list(selector.get_map() or ()):
        if isinstance(number, int):
            with suppress(OSError):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


class LoopLock:
    """An asyncio lock of the running loop: made anew where another loop runs, as after a fork."""

    def __init__(self) -> None:
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def here(self) -> asyncio.Lock:
        """The lock of the running loop."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, asyncio.Lock()
        return self._lock[1]


def _forget_parent() -> None:
    LOADING.after_in_child()
    for function in _functions:
        function()
    for forgetful in list(_objects):
        forgetful.forget_parent()


# What was registered last is called first. These two hold their locks until the fork is over, and
# who loads needs them: the fork has to wait before it takes them. They registered when they were
# imported.
_HOLDING_LOCKS = (logging, concurrent.futures.thread)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOADING.before_fork,
        after_in_parent=LOADING.after_in_parent,
        after_in_child=_forget_parent,
    )
