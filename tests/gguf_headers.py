"""GGUF files that have a header and nothing else, and the room that models were given."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations.backends import model_strings
from glimp_integrations.weights import memory

GIB = 1 << 30
LAYERS, HEADS, LENGTH = 4, 2, 64
TOKEN = LAYERS * HEADS * (LENGTH + LENGTH) * 2
"""Bytes of key-value cache that a token takes in such a model."""


def gguf(path: Path, **changes: Any) -> Path:
    """A file that has a header and nothing else; lists are of whole numbers."""
    fields = {
        "general.architecture": "toy",
        "general.tags": ["a", "b"],
        "toy.rope.freq_base": 10000.0,
        "toy.block_count": LAYERS,
        "toy.embedding_length": 8 * LENGTH,
        "toy.attention.head_count": 8,
        "toy.attention.head_count_kv": HEADS,
        **{name.replace("__", "."): value for name, value in changes.items()},
        "tokenizer.ggml.tokens": ["never read"],
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields))
    for name, value in fields.items():
        data += text(name) + valued(value)
    path.write_bytes(data)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def valued(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = 8 if isinstance(value[0], str) else 4
    items = [text(item) if kind == 8 else struct.pack("<I", item) for item in value]
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No model is open, and memory for any number of windows."""
    monkeypatch.setattr(model_strings, "_backends", {})
    monkeypatch.setattr(memory, "free_memory", lambda: 1000 * GIB)
    model_strings.catalogue_models.cache_clear()
    yield
    model_strings.catalogue_models.cache_clear()


def room(model: Any) -> tuple[int, int]:
    """Tokens of all windows together, and their number."""
    return model._room["n_ctx"], model._room["n_parallel"]
