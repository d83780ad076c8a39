"""Traces read from files.

A trace is a JSON object with ``steps``. A file contains one, or an object with one under
``"trace"`` or ``"glimprouter"`` (a stored ``RoutedAnswer``, the metadata of a reply), or a list of
these, or one of these on each line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from glimp_integrations.errors import ConfigError
from glimp_integrations.strict_json import well_formed
from glimp_integrations.trace.records import FORMAT, Record, TraceData
from glimp_integrations.unicode_text import shortened
from glimp_integrations.whole_files import write_whole

__all__ = ["Saved", "complaint_of_file", "decode", "first_complaint", "load", "parse", "write"]

RecordClass = TypeVar("RecordClass", bound=Record)

LARGEST_COUNT = 10**15
"""Tokens, steps, requests. Sums and quotients of such numbers stay exact and finite."""

_NO_COUNTS = (str, float, bool, type(None))

_TRACE_KEYS = ("trace", "glimprouter")
"""Keys under which an object has its trace."""
_NAME_KEYS = ("arm", "item", "id", "index", "question")
"""Keys whose values name an object; it may have none of them."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A trace in a file.

    Attributes:
        trace: The trace, as plain data; :func:`parse` reads it.
        name: The name of the object that contains it, or an empty text.
        place: Where the trace is, for errors: the file, and the line if there are several.
    """

    trace: dict[str, Any]
    name: str
    place: str


def load(path: str | Path) -> tuple[list[Saved], list[str]]:
    """Find all traces of a file.

    Returns:
        The traces in the order of the file, and a remark on everything else in it: lines that are
        not JSON (such as the last one of a killed run), objects without a trace.

    Raises:
        ConfigError: The file cannot be read, or contains no trace at all.
    """
    try:
        raw = Path(path).read_bytes()
        text = raw.decode(json.detect_encoding(raw))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a trace file: not text ({error.reason})") from error
    except ValueError as error:  # a path with a null character
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error
    traces: list[Saved] = []
    remarks: list[str] = []
    for place, value in _values(text, str(path), remarks):
        here = list(_traces(value, place))
        if not here:
            remarks.append(f"{place} contains no trace")
        traces += here
    if not traces:
        raise ConfigError(
            f"{path} contains no trace: expected what `glimp ask --trace FILE` or Trace.save() "
            'wrote, or JSON lines with a trace under "trace" each'
            + (f" ({remarks[0]})" if remarks else "")
        )
    return traces, remarks


def write(path: str | Path, text: str, what: str) -> None:
    """Write a text to a file, as UTF-8; where that fails, the file that was there stays.

    Args:
        path: The file; one that exists is overwritten.
        text: What is written.
        what: What it is, for the error, such as ``"the page"``.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{what} cannot be written to {path}: {reason}. Choose a file in a folder that "
            "exists, may be written to and has room"
        ) from error


def parse(data: object, kind: type[RecordClass], place: str = "this") -> RecordClass:
    """Make a trace, or another record of a call, of its JSON data.

    Args:
        data: The decoded JSON.
        kind: The class to make.
        place: Where the data is from, for errors.

    Raises:
        ConfigError: The data is not a trace, or a trace in a newer format, or a field is missing or
            has a value it cannot have; the message names the field.
    """
    what = "a trace" if issubclass(kind, TraceData) else f"a record ({kind.__name__})"
    if not isinstance(data, dict):
        raise ConfigError(f"{place} is not {what}: it is {_kind_of(data)}")
    if issubclass(kind, TraceData):
        _check_frame(data, place)
    try:
        record = kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{place} is not {what}: {first_complaint(error)}") from error
    if wrong := _wrong_number(record, ""):
        raise ConfigError(f"{place} is not {what}: {wrong}")
    return record


def _check_frame(data: dict[str, Any], place: str) -> None:
    """Whether this is a trace, in a format known here, before its fields are looked at."""
    if not isinstance(data.get("steps"), list):
        raise ConfigError(f"{place} is not a trace: it is an object without a list of steps")
    number = data.get("format", FORMAT)
    if isinstance(number, int | float) and number > FORMAT:
        raise ConfigError(
            f"{place} is a trace in format {number}, newer than {FORMAT}: update glimp-integrations"
        )


def _wrong_number(record: Record, prefix: str) -> str:
    """The first number of a record, or of those in it, that no call can have; else empty."""
    # A trace of 100,000 steps has more than a million fields: pydantic's own loop over a record,
    # and its instance checks, would take as long as reading the file.
    for name, value in vars(record).items():
        kind = type(value)
        if name == "threshold":
            if value is not None and not _is_threshold(value):
                return f"{prefix}{name} is {_short(value)}, expected nats, 'inf' or '-inf'"
        elif kind is int:
            if not 0 <= value <= LARGEST_COUNT:
                return f"{prefix}{name} is {_short(value)}, expected a number from 0 to 1e15"
        elif kind in _NO_COUNTS:
            continue
        elif isinstance(value, Record):
            if wrong := _wrong_number(value, f"{prefix}{name}."):
                return wrong
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Record) and (
                    wrong := _wrong_number(item, f"{prefix}{name}.{index}.")
                ):
                    return wrong
    return ""


def decode(text: str | bytes, place: str = "this") -> Any:
    """Make data of JSON text.

    Raises:
        ConfigError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not a trace: invalid JSON ({error})") from error


def _values(text: str, path: str, remarks: list[str]) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file (one, or one on each line), each with its place."""
    try:
        yield path, decode(text, path)
        return
    except ConfigError as error:
        not_json = str(error)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    objects = 0
    bad_lines: list[str] = []
    for number, line in lines:
        place = f"{path}, line {number}"
        try:
            value = decode(line, place)
        except ConfigError as error:
            bad_lines.append(str(error))
            continue
        # A line of a broken pretty-printed object may be JSON too (a number, a bracket).
        if isinstance(value, dict):
            objects += 1
            yield place, value
    remarks += bad_lines if objects else [not_json]


def _traces(value: Any, place: str) -> Iterator[Saved]:
    """The traces in a JSON value."""
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        where = f"{place}, item {number}" if isinstance(value, list) else place
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("steps"), list):
            yield Saved(item, "", where)
            continue
        for key in _TRACE_KEYS:
            trace = item.get(key)
            if isinstance(trace, dict) and isinstance(trace.get("steps"), list):
                yield Saved(trace, _name(item), where)
                break


def _name(item: dict[str, Any]) -> str:
    parts = (item[key] for key in _NAME_KEYS if isinstance(item.get(key), str | int))
    return " · ".join(" ".join(str(part).split()) for part in parts)


def first_complaint(error: ValidationError, *, skip: int = 0) -> str:
    """The first of pydantic's complaints, in one line: the field, its value, what was expected.

    Args:
        error: What pydantic raised.
        skip: How many names at the beginning of the field's path are left out.
    """
    first = error.errors(include_url=False)[0]
    path = first["loc"] if len(first["loc"]) <= skip else first["loc"][skip:]
    field = ".".join(map(str, path)) or "it"
    if first["type"] == "missing":
        return f"{field} is missing"
    return f"{field} is {_short(first['input'])}: {first['msg']}"


def complaint_of_file(error: ValidationError) -> str:
    """The first complaint about a whole file: the place, its value, and what was expected."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    if first["type"] in ("missing", "json_invalid"):
        return f"{where}: {first['msg']}"
    return f"{where} is {well_formed(repr(first['input']))[:60]}: {first['msg']}"


def _is_threshold(value: float | str | None) -> bool:
    try:
        return value is None or not math.isnan(float(value))
    except ValueError:
        return False


def _short(value: object) -> str:
    return shortened(well_formed(repr(value)), 60)


def _kind_of(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
