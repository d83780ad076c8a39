"""Recognising GGUF files, and what their headers say.

Source: the format's specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["cache_bytes", "is_gguf"]

_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_LONGEST = 1 << 20  # of a text or list before the tokenizer's
_HALF = 2  # bytes of a number in the cache


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF file."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def cache_bytes(path: Path) -> int | None:
    """Bytes that a token takes in the KV cache at 16 bits, at most.

    Layers that look at a window of the text, or compress it, take less.

    Args:
        path: A GGUF file.

    Returns:
        ``None``: its header does not tell.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            known = _header(file)
        heads = _each(known["attention.head_count"])
        length = known["embedding_length"] // max(heads)
        keys, values = (known.get(f"attention.{k}_length", length) for k in ("key", "value"))
        own = _each(known.get("attention.head_count_kv", heads))
        layers = own if len(own) > 1 else own * int(known["block_count"])
        return int(sum(layers) * (keys + values) * _HALF) or None
    except (KeyError, TypeError, ValueError, ArithmeticError, struct.error):
        return None


def _header(file: BinaryIO) -> dict[str, Any]:
    """What stands before the tokenizer, by name without the architecture's."""
    magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("not a GGUF file that can be read here")
    known: dict[str, Any] = {}
    for _ in range(count):
        name = _value(file, _TEXT)
        if name.startswith("tokenizer."):
            break
        known[name.partition(".")[2]] = _value(file, *struct.unpack("<I", file.read(4)))
    return known


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in _NUMBERS:
        number = f"<{_NUMBERS[kind]}"
        return struct.unpack(number, file.read(struct.calcsize(number)))[0]
    if kind == _TEXT:
        (length,) = struct.unpack("<Q", file.read(8))
    elif kind == _LIST:
        kind, length = struct.unpack("<IQ", file.read(12))
        if kind in _NUMBERS or kind == _TEXT:
            _refuse_long(length)
            return [_value(file, kind) for _ in range(length)]
    else:
        raise ValueError(f"a value of kind {kind}")
    _refuse_long(length)
    return file.read(length).decode(errors="replace")


def _refuse_long(length: int) -> None:
    if length > _LONGEST:
        raise ValueError("longer than any header")


def _each(value: Any) -> list[int]:
    """One number for all layers, or one for each."""
    return value if isinstance(value, list) else [value]
