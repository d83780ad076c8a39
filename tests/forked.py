"""Running something in a process forked from the tests' own."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable

__all__ = ["forked"]

_SECONDS = 30.0


def forked(work: Callable[[], str]) -> str:
    """What a function returns in a forked process, or the traceback of what it raised.

    The child leaves without the interpreter's end, which belongs to the tests' own process.

    Raises:
        TimeoutError: It hangs.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = work()
        except BaseException:
            text = traceback.format_exc()
        os.write(writer, text.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    until, parts = time.monotonic() + _SECONDS, [b""]
    try:
        while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            parts.append(os.read(reader, 65536))
            if not parts[-1]:
                return b"".join(parts).decode()
        raise TimeoutError(f"the forked process did not answer within {_SECONDS:.0f} s")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
