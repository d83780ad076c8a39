"""Whether a file in the cache is the pinned one: its SHA-256, computed once and then remembered.

Hashing the bundled models takes seconds, too long for every start. So the size, the time of the
last change and the inode of a file that was right are kept beside it; a file that differs in any
of them is hashed again. That finds damage and mix-ups. It is no protection from somebody who may
write in the folder.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.whole_files import write_whole

__all__ = ["Identity", "identity_of", "is_known", "remember", "sha256_of"]

Identity = dict[str, Any]
"""What tells a file from others, and its SHA-256."""

_BLOCK = 1 << 20
# Of files in folders that cannot be written, for as long as this process lives.
_remembered: dict[Path, Identity] = {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_known(path: Path, file: WeightFile) -> bool:
    """Whether this very file was hashed before, and is the pinned one."""
    wanted = identity_of(path, file)
    if _remembered.get(path) == wanted:
        return True
    try:
        # A note is short; whatever else has its name is not read.
        with _note_of(path).open("rb") as note:
            return bool(json.loads(note.read(4096)) == wanted)
    except (OSError, ValueError, RecursionError):
        return False


def remember(path: Path, identity: Identity) -> None:
    """Note that the file with this identity has the pinned SHA-256.

    In a folder that cannot be written it is noted for this process only.
    """
    _remembered[path] = identity
    with suppress(OSError):
        write_whole(_note_of(path), json.dumps(identity).encode(), follow_links=False)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")


def identity_of(path: Path, file: WeightFile) -> Identity:
    """The identity that a file has now, with the SHA-256 that it should have."""
    found = path.stat()
    return {
        "sha256": file.sha256,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
    }
