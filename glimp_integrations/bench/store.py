"""The folder of a bench: a manifest, and one JSON line for every result.

Lines are only ever appended, and flushed one by one, so a killed process loses at most the line
it was writing; the next start notices that line and drops it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from filelock import FileLock, Timeout

from glimp_integrations.errors import ConfigError

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
        except OSError as error:
            raise ConfigError(f"cannot write results to {folder}: {error}") from error
        try:
            self.manifest = self._agree({"format": FORMAT, **manifest})
            self.lines = self._read(say, repair=True)
            self._file = self.path.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, and flush it to the operating system."""
        assert self._file is not None, "opened for reading"
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        self.lines.append(dict(line))

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _agree(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        # Through JSON and back, so that it can be compared with what was stored.
        mine: dict[str, Any] = json.loads(json.dumps(manifest))
        if not (self.folder / MANIFEST).exists():
            if self.path.exists() and self.path.stat().st_size:
                raise ConfigError(
                    f"{self.folder} has {RESULTS} but no {MANIFEST}, so it is unknown what these "
                    "results are of; choose another --out"
                )
            waiting = self.folder / f"{MANIFEST}.part"
            waiting.write_text(json.dumps(mine, indent=1, ensure_ascii=False), encoding="utf-8")
            waiting.replace(self.folder / MANIFEST)  # whole or not at all
            return mine
        stored = _read_manifest(self.folder)
        differing = [
            f"{name} is {_short(stored.get(name))} there and {_short(mine.get(name))} now"
            for name in sorted({*stored, *mine})
            if stored.get(name) != mine.get(name)
        ]
        if differing:
            raise ConfigError(
                f"{self.folder} holds results of another bench: {'; '.join(differing)}. Choose "
                "another --out, or the same options to go on"
            )
        return stored

    def _read(self, say: Callable[[str], None], *, repair: bool) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines, good = [], 0
        data = self.path.read_bytes()
        raws = data.splitlines(keepends=True)
        for number, raw in enumerate(raws, 1):
            try:
                line = json.loads(raw)
                if not isinstance(line, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                if number < len(raws):
                    raise ConfigError(
                        f"{self.path}, line {number} is broken ({error}); remove that line, and "
                        "its item is answered again"
                    ) from None
                say(f"the last line of {self.path.name} was cut off; it is dropped")
                break
            lines.append(line)
            good += len(raw)
        if repair:
            with self.path.open("r+b") as file:
                file.truncate(good)
                if good and not data[:good].endswith(b"\n"):
                    file.seek(good)
                    file.write(b"\n")
        return lines


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is not the folder of a bench: there is no {MANIFEST}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not a manifest: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format", 0) > FORMAT:
        raise ConfigError(f"{path} was written by a newer version: update glimp-integrations")
    return manifest


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
