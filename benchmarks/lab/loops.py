"""Which event loops a measured process has. The products choose theirs; this is to compare them.

``plain``: asyncio's own, as ``pip install 'glimp-integrations[serve]'`` gives them. ``standard``:
uvloop for the connections of ``glimp serve``, which uvicorn takes by itself where it is installed.
``uvloop``: the loop of all models as well, which the core never chooses by itself: a forked process
has to know which sockets are its parent's, and uvloop does not tell.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

__all__ = ["LOOPS", "Loops", "choose", "run"]

Loops = Literal["plain", "standard", "uvloop"]
LOOPS: tuple[Loops, ...] = ("plain", "standard", "uvloop")
T = TypeVar("T")


def choose(loops: Loops) -> None:
    """Make this process have these loops; called before anything runs on one.

    Raises:
        ModuleNotFoundError: uvloop is not installed.
    """
    if loops == "plain":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed
        return
    import uvloop

    if loops == "uvloop":
        from glimp_integrations import io_loop

        io_loop._new_loop = uvloop.new_event_loop


def run(loops: Loops, main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on the loop of the caller that belongs to these."""
    if loops == "plain":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
