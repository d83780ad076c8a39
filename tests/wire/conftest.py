from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.fake_server import FakeServer


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIMP_SMALL", "GLIMP_LARGE", "GLIMP_API_KEY", "GLIMP_HOME", "GLIMP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Start a fake server with these options."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeServer(*args, **options))


@pytest.fixture
def connect() -> Iterator[Callable[..., OpenAIBackend]]:
    """A backend for a fake server or a URL, closed after the test."""
    made: list[OpenAIBackend] = []

    def make(server: FakeServer | str, model: str | None = None, **options: Any) -> OpenAIBackend:
        if isinstance(server, FakeServer):
            model = server.model if model is None else model
            server = server.url
        made.append(OpenAIBackend(model, base_url=server, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()
