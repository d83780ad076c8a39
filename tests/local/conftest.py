"""Tiny models: one thread each, and backends that are closed after their test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiny
import torch

from glimp_integrations.backends.hf import device_thread


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make() -> Iterator[Callable[..., tiny.Watched]]:
    """Make backends as :func:`tiny.backend` does, or around a given model."""
    made: list[tiny.Watched] = []

    def build(model: Any = "llama", tokens: Any = "plain", **options: Any) -> tiny.Watched:
        if isinstance(model, str):
            made.append(tiny.backend(model, tokens, **options))
        else:
            options.setdefault("name", "tiny")
            options.setdefault("cache_bytes", 1 << 30)
            tokens = tiny.tokenizer(tokens) if isinstance(tokens, str) else tokens
            made.append(tiny.Watched(model, tokens, **options))
        return made[-1]

    yield build
    for backend in made:
        # Not for ever: a device's thread that died would take all other tests with it.
        tiny.on_loop(lambda b=backend: asyncio.wait_for(b.aclose(), 10))


@pytest.fixture
def own_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of this test share a thread with no other test's."""
    with monkeypatch.context() as patched:
        patched.setattr(device_thread, "_threads", {})
        yield
