"""The file of results: whole lines that are only ever appended, and on the disk before they count.

Beside it stands a small file, ``<name>.run.json``, that says with which models and settings the
results were made. A killed process, or a power cut, leaves at most one broken line, the last one;
the next run drops it. Every other damage is an error that names the line.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from filelock import FileLock, Timeout
from pydantic import ValidationError

from glimp_integrations.batch.lines import RawLine, read_lines
from glimp_integrations.batch.requests_file import BatchRequest
from glimp_integrations.batch.totals import Result, Totals
from glimp_integrations.errors import ConfigError
from glimp_integrations.manifests import differences
from glimp_integrations.strict_json import plain
from glimp_integrations.whole_files import write_whole

__all__ = ["ResultsFile"]

LONGEST_RESULT = 256 * 1024 * 1024
"""In bytes. A trace with a hundred thousand steps is shorter."""


class ResultsFile:
    """A file of results, opened for writing by one process at a time.

    Args:
        path: The file; it is made if it does not exist.
        manifest: What distinguishes this batch from others, as JSON data.
        say: Is called with a sentence for the user.

    Raises:
        ConfigError: The file holds results of another batch, is in use, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path = path
        self._say = say
        self._file: BinaryIO | None = None
        try:
            self._target = Path(os.path.realpath(path))
            if self._target.exists() and not self._target.is_file():
                raise ConfigError(f"{path} is not a file; results are appended to one")
            self._lock = FileLock(self._target.with_name(f".{self._target.name}.lock"))
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{path} is being written by another glimp batch") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            self._unwritten(error)
        try:
            self._agree(manifest)
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write to the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._lock.release()

    def read(
        self, digests: dict[str, int | None], totals: Totals, *, retry_failed: bool = False
    ) -> None:
        """Take what is there: count it, and take it out of what is asked.

        Args:
            digests: Of every request, by custom id; ``None`` is put in where there is a result.
            totals: Counts the results.
            retry_failed: Whether results of failed requests are dropped.

        Raises:
            ConfigError: A line is broken, or a result of another batch.
        """
        broken: RawLine | None = None
        dropped = array("Q")  # where lines begin and end
        end, ended = 0, True
        with self._reading() as file:
            for raw in read_lines(file, LONGEST_RESULT):
                if raw.data is not None and not raw.data.strip():
                    continue
                if broken is not None:
                    raise ConfigError(
                        f"{self.path}, line {broken.number} is broken; remove that line, and its "
                        "request is asked again"
                    )
                result = _result(raw)
                if result is None:
                    broken = raw
                    continue
                end, ended = raw.start + len(raw.data or b"") + raw.whole, raw.whole
                self._check(raw, result, digests, retry_failed)
                if result.failed and retry_failed:
                    dropped.extend((raw.start, end))
                else:
                    digests[result.custom_id] = None
                    totals.add(result)
        if broken is not None:
            self._say(f"the last line of {self.path.name} was cut off; it is dropped")
            self._mend(broken.start, "")
        elif not ended:
            self._mend(end, "\n")
        if dropped:
            self._without(dropped)

    def append(self, lines: Sequence[bytes]) -> None:
        """Append lines, and wait until the disk has them.

        Args:
            lines: Each with its line feed.

        Raises:
            ConfigError: They cannot be written, because the disk is full for instance.
        """
        file = self._file
        assert file is not None, "closed"
        size = os.fstat(file.fileno()).st_size
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(file.fileno(), data) :]
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # whole lines only, if that can be had
                file.truncate(size)
            self._unwritten(error)

    def _check(
        self, raw: RawLine, result: Result, digests: Mapping[str, int | None], retry_failed: bool
    ) -> None:
        place, name = f"{self.path}, line {raw.number}", ascii(result.custom_id)
        if result.custom_id not in digests:
            raise ConfigError(
                f"{place} is the result of {name}, which is none of the requests: {self.path} "
                "belongs to other requests. Choose another file for the results"
            )
        digest = digests[result.custom_id]
        if digest is None:
            raise ConfigError(f"{place} is a second result of {name}; remove one of the two lines")
        if result.id == BatchRequest(result.custom_id, digest, b"").id:
            return
        if not result.failed:
            raise ConfigError(
                f"the request {name} is another one now than when it was answered ({place}): give "
                "it another custom_id, or choose another file for the results"
            )
        if not retry_failed:
            raise ConfigError(
                f"the request {name} is another one now than when it failed ({place}): "
                "--retry-failed asks it again"
            )

    def _agree(self, manifest: Mapping[str, Any]) -> None:
        """Compare the manifest with the one that is stored, or store it if there are no results."""
        path = self._target.with_name(f"{self._target.name}.run.json")
        # Through JSON and back, so that it can be compared with what was stored.
        mine = json.loads(json.dumps(plain(dict(manifest))))
        if not self._target.exists() or not self._target.stat().st_size:
            try:
                write_whole(path, (json.dumps(mine, indent=1) + "\n").encode())
            except OSError as error:
                self._unwritten(error)
            return
        remedy = "choose another file for the results"
        try:
            stored = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} has content but no {path.name} beside it, so it is unknown what it "
                f"is: {remedy}"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError):
            raise ConfigError(f"{path} is broken: restore it, or {remedy}") from None
        if not isinstance(stored, dict):
            raise ConfigError(f"{path} is broken: restore it, or {remedy}")
        if differing := differences(stored, mine):
            raise ConfigError(
                f"{self.path} has results of another batch: {differing}. {remedy.capitalize()}, "
                "or give the same options to go on"
            )

    def _open(self) -> None:
        try:
            self._file = self._target.open("ab", buffering=0)
            _sync_folder(self._target.parent)
        except OSError as error:
            self._unwritten(error)

    def _reading(self) -> BinaryIO:
        try:
            return self._target.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error

    def _mend(self, end: int, more: str) -> None:
        """Cut the file there, and add something."""
        assert self._file is not None
        try:
            self._file.truncate(end)
        except OSError as error:
            self._unwritten(error)
        self.append([more.encode()])

    def _without(self, dropped: Sequence[int]) -> None:
        """Leave out what lies between two numbers each; all or nothing."""
        waiting = self._target.with_name(f".{self._target.name}.part")
        try:
            with self._target.open("rb") as old, waiting.open("wb") as new:
                for start, end in zip(dropped[::2], dropped[1::2], strict=True):
                    _copy(old, new, start - old.tell())
                    old.seek(end)
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(self._target, waiting)
            assert self._file is not None
            self._file.close()
            os.replace(waiting, self._target)
        except OSError as error:
            with suppress(OSError):
                waiting.unlink()
            self._unwritten(error)
        self._open()

    def _unwritten(self, error: OSError | ValueError) -> NoReturn:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{self.path} cannot be written: {reason}. What it has is kept; choose a file in a "
            "folder that exists, may be written to and has room, or make room, and the same "
            "command goes on"
        ) from error


def _result(raw: RawLine) -> Result | None:
    if raw.data is None:
        return None
    try:
        return Result.model_validate_json(raw.data)
    except ValidationError:
        return None


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count > 0 and (part := old.read(min(count, 1 << 20))):
        new.write(part)
        count -= len(part)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk knows the files of a folder; Windows has no such call."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
