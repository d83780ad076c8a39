"""JSON with one value of another type or size, at any place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .server import as_bytes

__all__ = ["VALUES", "Wrong", "wrong"]

_HOLE = "@@hole@@"
VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "number": b"7",
    "fraction": b"3.5",
    "negative": b"-7",
    "high": b"1000000",
    "huge": b"1" + b"0" * 400,
    "longest": b"9" * 5000,  # more digits than Python turns into a number
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "text": b'"junk"',
    "figures": b'"12"',
    "empty text": b'""',
    "surrogate": b'"\\ud83d"',
    "controls": b'"\\u0000\\u001b[2J"',
    "empty list": b"[]",
    "list": b"[1]",
    "list of null": b"[null]",
    "empty object": b"{}",
    "object": b'{"a": 1}',
    "deep": b"[" * 20000 + b"]" * 20000,
    "deep object": b'{"a":' * 5000 + b"1" + b"}" * 5000,
}
"""What stands in place of a right value, as it is written."""

# A client cannot know that these are not what the model wrote.
_TEXTS = {"text", "content", "prompt", "chat_template"}
_STRINGS = {"text", "figures", "surrogate", "controls"}
# Nothing, or something in which there is no text: what a server may send between two tokens.
_NOTHING = {"null", "empty list", "empty object", "object", "empty text", "true"}
# A distribution that may be one.
_LIKELY = {"negative", "-Infinity"}


class Wrong:
    """A wrong value at one place.

    Attributes:
        data: The JSON text.
        name: Where and what, in words.
        beside: Whether the right one has to follow, because nobody could know that it is missing.
    """

    def __init__(self, data: bytes, name: str, *, beside: bool) -> None:
        self.data = data
        self.name = name
        self.beside = beside


def wrong(data: Any, place: float, value: float, *, streamed: bool) -> Wrong:
    """Put a wrong value somewhere into a reply.

    Args:
        data: The right reply.
        place: Where: a number from 0 to 1.
        value: What: likewise.
        streamed: Whether it is a chunk of a stream.
    """
    paths = list(_paths(data, ()))
    path = paths[int(place * len(paths))]
    names = list(VALUES)
    name = names[int(value * len(names))]
    where = ".".join(map(str, path)) or "everything"
    leaf = str(path[-1]) if path else ""
    if leaf in _TEXTS and name in _STRINGS:
        name = "number"
    if ("logprob" in where) and name in _LIKELY:
        name = "NaN"
    holds_text = streamed and _holds_text(data, path)
    # Fields that are about the text and whose loss shows nowhere.
    beside = holds_text and name in _NOTHING
    return Wrong(_written(data, path, VALUES[name]), f"{where} = {name}", beside=beside)


def _paths(data: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(data, dict):
        names = list(data)
        if len(names) > 8:  # the likeliest tokens: the first, and one more
            names = names[:2]
        for name in names:
            yield from _paths(data[name], (*path, name))
    elif isinstance(data, list) and data:
        yield from _paths(data[0], (*path, 0))


def _holds_text(data: Any, path: tuple[Any, ...]) -> bool:
    for step in path:
        data = data[step]
    if isinstance(data, dict):
        return any(
            name in _TEXTS or _holds_text(data, (name,)) for name in data if name != "logprobs"
        )
    if isinstance(data, list):
        return any(_holds_text(item, ()) for item in data)
    return bool(path) and path[-1] in _TEXTS


def _written(data: Any, path: tuple[Any, ...], value: bytes) -> bytes:
    def put(part: Any, rest: tuple[Any, ...]) -> Any:
        if not rest:
            return _HOLE
        if isinstance(part, dict):
            return {k: put(v, rest[1:]) if k == rest[0] else v for k, v in part.items()}
        return [put(part[0], rest[1:]), *part[1:]]

    return as_bytes(put(data, path)).replace(f'"{_HOLE}"'.encode(), value)
