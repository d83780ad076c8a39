"""Whose line made a call, so that a warning about the call names that line.

A call's work runs on the thread of :mod:`glimp_integrations.io_loop`, where nothing is left of its
caller's stack. So the line is noted when the call is made, on the caller's own thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

__all__ = ["Line", "users_line"]

_PACKAGES = ("glimp_integrations", "langchain_glimp", "llamaindex_glimp")
_OURS = tuple(f"{Path(__file__).parent.with_name(name)}{os.sep}" for name in _PACKAGES)
_STANDARD = (f"{os.path.dirname(os.__file__)}{os.sep}", "<frozen ")
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


class Line(NamedTuple):
    """A line of a program, as :func:`warnings.warn_explicit` takes it."""

    file: str
    number: int
    module: str


def users_line() -> Line:
    """The innermost running line of the user's own program.

    That is the first one outside of this project, the standard library and installed packages:
    frameworks stand between a program and its models. Where all lines are of those (a framework
    calls from a thread of its own, say), it is the first one outside of this project.
    """
    innermost = sys._getframe(1)
    outside: FrameType | None = None
    frame: FrameType | None = innermost
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_OURS):
            outside = outside or frame
            if not file.startswith(_STANDARD) and not any(part in file for part in _INSTALLED):
                return _line(frame)
        frame = frame.f_back
    return _line(outside or innermost)


def _line(frame: FrameType) -> Line:
    return Line(
        frame.f_code.co_filename, frame.f_lineno, str(frame.f_globals.get("__name__", "<string>"))
    )
