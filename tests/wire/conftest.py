from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from glimp_integrations.backends import retries
from glimp_integrations.backends.http import client, connections
from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.fake_server import FakeServer


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMALL", "LARGE", "PAIR", "API_KEY", "HOME", "OFFLINE"):
        monkeypatch.delenv(f"GLIMP_{name}", raising=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats come soon. ``test_retry_pauses`` and ``tests/unit`` are about how soon."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.02)


@pytest.fixture
def whole_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream is read to the end of its body, also where the machine is busy.

    A server that does not end a body within a quarter of a second costs its connection; a fake one
    that does not get the processor in that time would, too, and tests that count connections are
    not about that.
    """
    monkeypatch.setattr(client, "_END_SECONDS", 30.0)


@pytest.fixture
def near_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is so far away that a connection is kept ready, also where the machine is busy."""
    monkeypatch.setattr(connections, "NEAR_SECONDS", 30.0)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Start a fake server with these options."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeServer(*args, **options))


@pytest.fixture
def connect() -> Iterator[Callable[..., OpenAIBackend]]:
    """A backend for a fake server or a URL, closed after the test."""
    made: list[OpenAIBackend] = []

    def make(place: FakeServer | str, model: str | None = None, **options: Any) -> OpenAIBackend:
        if isinstance(place, FakeServer):
            model = place.model if model is None else model
            place = place.url
        made.append(OpenAIBackend(model, base_url=place, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
