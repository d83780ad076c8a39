"""Writing into the folder of weights: locks, unfinished downloads, and what the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from glimp_integrations.errors import ConfigError

__all__ = ["IS_DISK", "cannot_store", "check_room", "locked", "open_part", "refuse_link"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
IS_DISK = _FULL | _FORBIDDEN
"""Numbers of errors that are the disk's and no network's."""


def cannot_store(error: OSError, path: Path, size: int) -> ConfigError:
    """The error for a file that the disk does not take: which file, how many bytes, what to do.

    Args:
        error: What the operating system said.
        path: The file that was to be stored.
        size: Its size in bytes.
    """
    reason = error.strerror or str(error)
    at = f" (at {error.filename})" if error.filename not in (None, str(path)) else ""
    if error.errno in _FULL:
        return _no_room(path, size)
    if error.errno in _FORBIDDEN:
        return ConfigError(
            f"{path} of {size:,} bytes cannot be read or written: {reason}{at}. Give yourself "
            "access to that folder, or set GLIMP_HOME to a folder you can write to"
        )
    return ConfigError(
        f"{path} of {size:,} bytes cannot be stored: {reason}{at}. Remove what is in the way, or "
        "set GLIMP_HOME to another folder"
    )


def check_room(path: Path, size: int, there: int) -> None:
    """Refuse a download for which the disk has no room.

    Args:
        path: The file.
        size: Its size in bytes.
        there: Bytes of an earlier, unfinished download.

    Raises:
        ConfigError: Too little is free.
    """
    if shutil.disk_usage(path.parent).free < size - there:
        raise _no_room(path, size - there)


def _no_room(path: Path, size: int) -> ConfigError:
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = "less is free"
    return ConfigError(
        f"no room for {path}: it needs {size:,} bytes and {free}. Delete something there, or set "
        "GLIMP_HOME to a folder on another disk"
    )


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Wait for a lock file and hold it.

    Raises:
        ConfigError: It is something else than a lock file, a link for instance.
    """
    held = FileLock(lock)
    try:
        held.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError) and error.errno in IS_DISK:
            raise
        raise ConfigError(
            f"{lock} cannot be used as a lock: {reason}. If it is a link or a folder, remove it; "
            "if the disk has no locks, set GLIMP_HOME to a folder on another disk"
        ) from error
    try:
        yield
    finally:
        held.release()


def refuse_link(path: Path) -> None:
    """Refuse to write through a link, which would overwrite what it points to.

    Raises:
        ConfigError: The path is a link.
    """
    if path.is_symlink():
        raise _is_link(path, f"a link to {os.readlink(path)}")


def open_part(part: Path) -> BinaryIO:
    """Open an unfinished download for appending, and nothing else that may have its name.

    Where others may write in the folder, a link of that name would have its target overwritten.

    Raises:
        ConfigError: It is a link, has a second name, or is no file.
    """
    refuse_link(part)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    # Between the look above and this call a link may appear; Windows does not have the flag.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(part, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(part, "a link") from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise _is_link(part, "no plain file, or a file with a second name")
    return os.fdopen(descriptor, "ab")


def _is_link(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} is {what}, and a download would write into that: remove it and try again"
    )
