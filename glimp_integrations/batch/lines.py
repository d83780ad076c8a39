"""Lines of a file of any size, one at a time, none of them longer than a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["RawLine", "read_lines"]

_SKIPPED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in a file.

    Attributes:
        number: From 1.
        start: Where it begins, in bytes.
        data: Its bytes without the line feed; ``None``: it is longer than the limit.
        whole: Whether a line feed ends it.
    """

    number: int
    start: int
    data: bytes | None
    whole: bool


def read_lines(file: BinaryIO, most: int) -> Iterator[RawLine]:
    """The lines of a file from where it stands, which has to be its beginning.

    At line feeds only: JSON lines may hold every other character that ends a line elsewhere.

    Args:
        file: Opened for reading bytes.
        most: Longest line, in bytes.

    Raises:
        OSError: The file cannot be read.
    """
    number = start = 0
    while data := file.readline(most + 1):
        number += 1
        length = len(data)
        whole = data.endswith(b"\n")
        if length > most and not whole:
            while part := file.readline(_SKIPPED_AT_ONCE):
                length += len(part)
                if whole := part.endswith(b"\n"):
                    break
            yield RawLine(number, start, None, whole)
        else:
            yield RawLine(number, start, data.removesuffix(b"\n"), whole)
        start += length
