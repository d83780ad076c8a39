"""What a process forked from this one must not use: its threads, event loops and connections.

Only the thread that forks lives on in the child. A lock that another thread held is never released
there, an event loop that ran in another thread never runs again, and a socket is the parent's: what
the child wrote on it, or took out of the parent's ``epoll``, would be lost to the parent.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from selectors import BaseSelector
from typing import Protocol

__all__ = ["IMPORTING", "Forgetful", "LoopLock", "drop_loop", "in_child", "keep"]

IMPORTING = threading.RLock()
"""Held while a thread imports something large; a fork waits for it.

A module that another thread was importing stays half imported in the child for ever.
"""


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
    IMPORTING.release()
    for function in _functions:
        function()
    for forgetful in list(_objects):
        forgetful.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=IMPORTING.acquire,
        after_in_parent=IMPORTING.release,
        after_in_child=_forget_parent,
    )
