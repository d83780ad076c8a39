"""Saved traces: read from files of any kind that hold them, by older versions too.

A trace is a JSON object with ``steps``. A file holds one, or a record with one under ``"trace"`` or
``"glimprouter"`` (a stored ``RoutedAnswer``, a reply's metadata), or a list of these, or one of
these a line.
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
from glimp_integrations.trace.records import FORMAT, TraceData

__all__ = ["Saved", "decode", "load", "parse"]

Kind = TypeVar("Kind", bound=TraceData)

_HOLDERS = ("trace", "glimprouter")
_NAMES = ("arm", "item", "id", "index", "question")
"""What a record is called by, if it says so."""

# What a field is taken for where a trace does not have it. Text, author and threshold of a step
# have no such value.
_TRACE = {
    "small_model": "small model",
    "large_model": "large model",
    "strategy": "unknown",
    "strategy_reason": "",
}
_STEP = {
    "kind": "reasoning",
    "entropy": None,
    "estimator": "unknown",
    "tokens": 0,
    "discarded_tokens": 0,
    "requests": 0,
    "prefilled_tokens": None,
    "cached_tokens": None,
    "first_token_seconds": None,
    "seconds": 0.0,
    "end": None,
}


@dataclass(frozen=True, slots=True)
class Saved:
    """A trace in a file.

    Attributes:
        trace: The trace, as plain data; :func:`parse` reads it.
        name: What its record is called, or an empty text.
        place: Where it stands, for errors: the file, and the line if there are several.
    """

    trace: dict[str, Any]
    name: str
    place: str


def load(path: str | Path) -> tuple[list[Saved], list[str]]:
    """All traces of a file.

    Returns:
        The traces in the order of the file, and a remark on everything else that was found: lines
        that are no JSON (the last one of a killed run), records without a trace.

    Raises:
        ConfigError: The file cannot be read, or holds no trace at all.
    """
    try:
        raw = Path(path).read_bytes()
        text = raw.decode(json.detect_encoding(raw))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no trace: it is not text ({error.reason})") from error
    found: list[Saved] = []
    remarks: list[str] = []
    for place, value in _values(text, str(path), remarks):
        traces = list(_traces(value, place))
        if not traces:
            remarks.append(f"{place} holds no trace")
        found += traces
    if not found:
        raise ConfigError(
            f"{path} holds no trace: expected what `glimp ask --trace FILE` or Trace.save() wrote, "
            'or JSON lines with a trace under "trace" each'
            + (f" ({remarks[0]})" if remarks else "")
        )
    return found, remarks


def parse(data: object, kind: type[Kind], place: str = "this") -> Kind:
    """A trace from its JSON data. Fields an older version did not write get their defaults.

    Args:
        data: What the JSON says.
        kind: The class to make.
        place: Where the data is from, for errors.

    Raises:
        ConfigError: It is no trace, or one of a newer version, or lacks what cannot be guessed.
    """
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        what = "an object without a list of steps" if isinstance(data, dict) else _kind_of(data)
        raise ConfigError(f"{place} is no trace: it is {what}")
    made = data.get("format", 1)
    # First: what else a newer format holds is not ours to judge.
    if isinstance(made, int | float) and made > FORMAT:
        raise ConfigError(
            f"{place}: this trace has format {made}, newer than {FORMAT}: update glimp-integrations"
        )
    steps = [
        {"index": number, **_STEP, **step} if isinstance(step, dict) else step
        for number, step in enumerate(data["steps"])
    ]
    try:
        trace = kind.model_validate({**_TRACE, **data, "steps": steps})
    except ValidationError as error:
        raise ConfigError(f"{place} is no trace: {_first(error)}") from error
    for number, record in enumerate(trace.steps):
        _check_threshold(record.threshold, number, place)
    return trace


def decode(text: str | bytes, place: str = "this") -> Any:
    """JSON text as data.

    Raises:
        ConfigError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is no trace: it is no JSON ({error})") from error


def _values(text: str, path: str, remarks: list[str]) -> Iterator[tuple[str, Any]]:
    """The JSON of a file, whole or a line at a time, and where each stands."""
    try:
        yield path, decode(text)
        return
    except ConfigError as error:
        whole = error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    read = 0
    wrong: list[str] = []
    for number, line in lines:
        place = f"{path}, line {number}"
        try:
            value = decode(line, place)
        except ConfigError as error:
            wrong.append(str(error))
            continue
        # Lines of one broken pretty-printed object are JSON at times too (a number, a bracket).
        if isinstance(value, dict):
            read += 1
            yield place, value
    if read:
        remarks += wrong
    else:
        remarks.append(str(whole).replace("this", path, 1))


def _traces(value: Any, place: str) -> Iterator[Saved]:
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        where = f"{place}, item {number}" if isinstance(value, list) else place
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("steps"), list):
            yield Saved(item, "", where)
            continue
        for key in _HOLDERS:
            held = item.get(key)
            if isinstance(held, dict) and isinstance(held.get("steps"), list):
                yield Saved(held, _name(item), where)
                break


def _name(record: dict[str, Any]) -> str:
    named = (record[key] for key in _NAMES if isinstance(record.get(key), str | int))
    return " · ".join(" ".join(str(part).split()) for part in named)


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    found = error.errors(include_url=False)[0]
    *path, last = found["loc"]
    at = ".".join(map(str, [*path, last]))
    if found["type"] == "missing":
        return f"{at} is missing"
    return f"{at} is {_short(found['input'])}: {found['msg']}"


def _check_threshold(threshold: float | str, number: int, place: str) -> None:
    try:
        known = not math.isnan(float(threshold))
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            f"{place} is no trace: steps.{number}.threshold is {_short(threshold)}, expected nats, "
            "'inf' or '-inf'"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind_of(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
