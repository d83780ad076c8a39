"""The file of requests: read line by line, and checked before anything is asked.

Format: OpenAI, API reference, "The request input object" of the Batch API. One JSON object a line
with ``custom_id``, ``method``, ``url`` and ``body``; other fields are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from glimp_integrations.batch.lines import RawLine, read_lines
from glimp_integrations.errors import ConfigError
from glimp_integrations.strict_json import has_lone_surrogate
from glimp_integrations.unicode_text import shortened

__all__ = ["BatchRequest", "RequestsFile"]

URL = "/v1/chat/completions"
LONGEST_ID = 512
MISTAKES_SHOWN = 5
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request.

    Attributes:
        custom_id: What its result is found by.
        digest: 96 bits of what it says and of its id: another request has another one.
        body: JSON of what ``/v1/chat/completions`` takes.
        start: Where its line begins, in bytes.
    """

    custom_id: str
    digest: int
    body: bytes
    start: int = 0

    @property
    def id(self) -> str:
        """The id of its result: the same in every run, for the same request."""
        return f"batch_req_{self.digest:024x}"


class _MistakeError(Exception):
    """What is wrong with a line, and what to do."""


class RequestsFile:
    """A file of requests.

    Args:
        path: The file; it is read several times.
        model_name: The model that every request has to name.
        max_line_bytes: Longest line.
    """

    def __init__(self, path: Path, model_name: str, max_line_bytes: int) -> None:
        self.path = path
        self._model_name, self._most = model_name, max_line_bytes

    def check(self) -> dict[str, int | None]:
        """Read the whole file, and refuse it if a line is broken or an id is there twice.

        Returns:
            The digest of every request, by custom id. This is all that is kept: some 160 bytes
            for an id of 20 characters.

        Raises:
            ConfigError: The file cannot be read, or has mistakes; the first few are named with
                their lines.
        """
        digests: dict[str, int | None] = {}
        mistakes: list[str] = []
        for raw in self._raw_lines():
            try:
                request = self._request(raw)
                if request is None:
                    continue
                if request.custom_id in digests:
                    raise _MistakeError(
                        f"custom_id {_short(request.custom_id)} is that of line "
                        f"{self._line_of(request.custom_id)} already; every request needs its own"
                    )
                digests[request.custom_id] = request.digest
            except _MistakeError as mistake:
                mistakes.append(f"line {raw.number}: {mistake}")
                if len(mistakes) > MISTAKES_SHOWN:
                    mistakes[-1] = "(and perhaps more below)"
                    break
        if mistakes:
            raise ConfigError(f"nothing was asked. {self.path}: {'; '.join(mistakes)}")
        if not digests:
            raise ConfigError(f"{self.path} has no requests; expected one JSON object a line")
        return digests

    def __iter__(self) -> Iterator[BatchRequest]:
        """The requests, in order.

        Raises:
            ConfigError: The file cannot be read, or has become another one since it was checked.
        """
        for raw in self._raw_lines():
            try:
                request = self._request(raw)
            except _MistakeError as mistake:
                self.refuse_change(f"line {raw.number}: {mistake}")
            if request is not None:
                yield request

    def at(self, starts: Iterable[int]) -> Iterator[BatchRequest]:
        """The requests whose lines begin at these places.

        Raises:
            ConfigError: As above.
        """
        with _readable(self.path) as file:
            for start in starts:
                file.seek(start)
                request = None
                for raw in read_lines(file, self._most):
                    # Lines before it are not counted here; only the first may have a mark.
                    found = replace(raw, number=1 if start == 0 else 2, start=start)
                    with suppress(_MistakeError):
                        request = self._request(found)
                    break
                if request is None:
                    self.refuse_change(f"the line at byte {start:,}")
                yield request

    def refuse_change(self, what: str) -> NoReturn:
        """Refuse a file that is not what it was when it was checked.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{self.path} was changed while it was being read ({what}): restore it, and the same "
            "command goes on"
        )

    def _raw_lines(self) -> Iterator[RawLine]:
        with _readable(self.path) as file:
            yield from read_lines(file, self._most)

    def _request(self, raw: RawLine) -> BatchRequest | None:
        """The request of a line; ``None``: the line is empty.

        Raises:
            _MistakeError: It is broken.
        """
        if raw.data is None:
            raise _MistakeError(
                f"it is longer than {self._most:,} bytes: shorten it, or allow more with "
                "--max-line-bytes"
            )
        data = raw.data.removeprefix(_BOM) if raw.number == 1 else raw.data
        if not data.strip():
            return None
        line = _object(data)
        custom_id = line.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            raise _MistakeError(f"custom_id is {_short(custom_id)}; expected a text")
        if len(custom_id) > LONGEST_ID or has_lone_surrogate(custom_id):
            raise _MistakeError(
                f"custom_id is {_short(custom_id)}; expected at most {LONGEST_ID} characters of "
                "Unicode"
            )
        if line.get("method") != "POST":
            raise _MistakeError(f"method is {_short(line.get('method'))}; expected 'POST'")
        if line.get("url") != URL:
            raise _MistakeError(f"url is {_short(line.get('url'))}; expected {URL!r}")
        body = line.get("body")
        if not isinstance(body, dict):
            raise _MistakeError(f"body is {_short(body)}; expected an object")
        if body.get("model") != self._model_name:
            raise _MistakeError(
                f"body.model is {_short(body.get('model'))}; this batch is for "
                f"{self._model_name!r}: change it, or give the name with --model-name"
            )
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        digest = hashlib.blake2b(json.dumps(custom_id).encode() + text.encode(), digest_size=12)
        number = int.from_bytes(digest.digest())
        return BatchRequest(custom_id, number, text.encode(), raw.start)

    def _line_of(self, custom_id: str) -> int:
        """The first line with an id, which is read again: line numbers are not kept."""
        for raw in self._raw_lines():
            try:
                request = self._request(raw)
            except _MistakeError:
                continue
            if request is not None and request.custom_id == custom_id:
                return raw.number
        raise AssertionError("an id that was read cannot be found")


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object in a line.

    Raises:
        _MistakeError: It holds something else.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _MistakeError(
            f"it is not UTF-8 (byte {error.start + 1}: {error.reason}); store the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _MistakeError(f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _MistakeError(f"it is {_short(value)}; expected an object")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _short(value: Any) -> str:
    return shortened("missing" if value is None else ascii(value), 60)


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is not a file; requests are read twice, so a pipe cannot be")
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read: {reason}") from error
