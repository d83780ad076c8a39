"""Recognising GGUF files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_gguf"]


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF file."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
