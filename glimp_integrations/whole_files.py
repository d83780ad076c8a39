"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

__all__ = ["write_whole"]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def write_whole(path: str | Path, data: bytes, *, follow_links: bool = True) -> None:
    """Write a file; an interruption or a full disk leaves what was there.

    The bytes go into a new file of the same folder, which takes the old one's place once the disk
    has them. A link stays a link, and a file keeps its permissions. What cannot be replaced is
    written in place: a device, a pipe, a file in a folder where no other file can be made.

    Args:
        path: The file; one that exists is overwritten.
        data: Its content.
        follow_links: Off: a link is replaced by the file, and nothing is written in place, so that
            no other file than this one changes, whoever made the link.

    Raises:
        OSError: It cannot be written.
        ValueError: The path has a null character.
    """
    target = Path(os.path.realpath(path) if follow_links else path)
    try:
        mode = target.stat(follow_symlinks=follow_links).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        if follow_links:
            target.write_bytes(data)
            return
        mode = None
    # A name of its own, as the target's may already be as long as names can be.
    waiting = target.with_name(f".glimp-{token_hex(8)}.part")
    try:
        descriptor = os.open(waiting, _NEW, 0o666)
    except PermissionError:
        if mode is None or not follow_links:
            raise
        target.write_bytes(data)
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(waiting, stat.S_IMODE(mode))
        os.replace(waiting, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(waiting)
        raise
