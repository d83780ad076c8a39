"""The folder of a bench: a manifest, and one JSON line for every result.

Lines are only ever appended, and flushed one by one, so a killed process loses at most the line
it was writing; the next start notices that line and drops it. Every other damage is an error that
names the line (:mod:`glimp_integrations.bench.lines`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from filelock import FileLock, Timeout

from glimp_integrations.bench.lines import check_line, check_manifest
from glimp_integrations.errors import ConfigError
from glimp_integrations.manifests import differences
from glimp_integrations.strict_json import plain
from glimp_integrations.whole_files import write_whole

__all__ = ["FORMAT", "Store"]

FORMAT = 1
MANIFEST, RESULTS = "manifest.json", "results.jsonl"


class Store:
    """A folder of results, opened for writing by one process at a time.

    Args:
        folder: It is made if it does not exist.
        manifest: What distinguishes this bench from others, as JSON data. ``None``: the folder is
            only read, with the manifest that is there (for reports).
        say: Is called with a sentence for the user.

    Raises:
        ConfigError: The folder holds another bench, is in use, or has a broken line.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self.path = folder / RESULTS
        self._file: TextIO | None = None
        self._lock = FileLock(folder / ".lock")
        if manifest is None:
            self.manifest = _read_manifest(folder)
            self.lines = self._read(say, repair=False)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{folder} is being written by another glimp bench") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ConfigError(f"cannot write results to {folder}: {error}") from error
        try:
            self.manifest = self._agree({"format": FORMAT, **manifest})
            self.lines = self._read(say, repair=True)
            try:
                self._file = self.path.open("a", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"cannot write results to {self.path}: {error}") from error
        except BaseException:
            self._lock.release()
            raise

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, and flush it to the operating system.

        Raises:
            ConfigError: It cannot be written, because the disk is full for instance.
        """
        assert self._file is not None, "opened for reading"
        text = json.dumps(plain(line), ensure_ascii=False) + "\n"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._unwritten(f"a line of {len(text):,} characters", error) from error
        self.lines.append(dict(line))

    def close(self) -> None:
        """Let other processes write to the folder.

        Raises:
            ConfigError: The disk did not take the last lines.
        """
        try:
            if self._file is not None:
                file, self._file = self._file, None
                with file:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten("the last line", error) from error
        finally:
            self._lock.release()

    def _unwritten(self, what: str, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path}: {what} cannot be written: {error.strerror}. The lines before it are "
            "kept; free some room there, and the same command goes on"
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A line that could not be written cannot be written now either; the first error counts.
        with suppress(ConfigError) if error is not None else nullcontext():
            self.close()

    def _agree(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        # Through JSON and back, so that it can be compared with what was stored.
        mine: dict[str, Any] = json.loads(json.dumps(plain(dict(manifest))))
        if not (self.folder / MANIFEST).exists():
            if self.path.exists() and self.path.stat().st_size:
                raise ConfigError(
                    f"{self.folder} has {RESULTS} but no {MANIFEST}, so it is unknown what these "
                    "results are of; choose another --out"
                )
            self._store_manifest(json.dumps(mine, indent=1, ensure_ascii=False))
            return mine
        stored = _read_manifest(self.folder)
        if differing := differences(stored, mine):
            raise ConfigError(
                f"{self.folder} holds results of another bench: {differing}. Choose another "
                "--out, or the same options to go on"
            )
        return stored

    def _store_manifest(self, text: str) -> None:
        """Write the manifest, whole or not at all."""
        try:
            write_whole(self.folder / MANIFEST, text.encode())
        except OSError as error:
            raise ConfigError(
                f"{self.folder / MANIFEST} of {len(text):,} characters cannot be written: "
                f"{error.strerror}. Free some room there, or choose another --out"
            ) from error

    def _read(self, say: Callable[[str], None], *, repair: bool) -> list[dict[str, Any]]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        lines, good = [], 0
        # At line feeds only: no other character ends a line of what is written here.
        raws = data.split(b"\n")
        for number, raw in enumerate(raws, 1):
            if number == len(raws) and not raw.strip():
                good += len(raw)
                break
            place = f"{self.path}, line {number}"
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError) as error:
                if number < len(raws) and any(later.strip() for later in raws[number:]):
                    raise ConfigError(
                        f"{place} is broken ({error}); remove that line, and its item is answered "
                        "again"
                    ) from None
                say(f"the last line of {self.path.name} was cut off; it is dropped")
                break
            check_line(line, place)
            lines.append(line)
            good += len(raw) + 1
        if repair:
            self._cut(good, whole=good <= len(data))
        return lines

    def _cut(self, good: int, *, whole: bool) -> None:
        """Leave the first ``good`` bytes; the line feed of the last line is one of them."""
        try:
            with self.path.open("r+b") as file:
                if whole:
                    file.truncate(good)
                else:
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
        except OSError as error:
            raise ConfigError(f"cannot write results to {self.path}: {error.strerror}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is not the folder of a bench: there is no {MANIFEST}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not the manifest of a bench: invalid JSON ({error}). Restore it, or choose "
            "another --out"
        ) from error
    stored = check_manifest(manifest, str(path))
    if stored["format"] > FORMAT:
        raise ConfigError(
            f"{path} has format {stored['format']}, newer than {FORMAT}: update glimp-integrations"
        )
    named: dict[str, Any] = plain(stored)
    return named
