from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS
from wire.servers.replay import Replay, load

# What a user would write, the address apart.
OPTIONS: dict[str, dict[str, Any]] = {
    "sglang": {"model": "Qwen/Qwen3-8B", "chat_template": "x"},
    "ollama": {"model": "qwen3:4b"},
    "tgi": {"model": "HuggingFaceTB/SmolLM3-3B"},
    "together": {"model": "Qwen/Qwen3-32B", "chat_template": "x"},
    "fireworks": {"model": "accounts/fireworks/models/qwen3-8b", "chat_template": "x"},
    "deepseek": {"model": "deepseek-v4-flash"},
    "mistral": {"model": "mistral-large-latest"},
    "openrouter": {"model": "qwen/qwen3-32b", "provider": "deepinfra"},
}
# Below the root of the replayed server.
BASES = {"deepseek": "", "openrouter": "/api/v1", "ollama": "", "tgi": ""}
IDENTITY = {
    "ollama": ["tags", "show", "ps", "render"],
    "tgi": ["info", "tokenize", "render"],
}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in MODEL_STRING_SERVERS.values():
        if profile.key is not None:
            monkeypatch.delenv(profile.key, raising=False)


@pytest.fixture
def replay() -> Iterator[Callable[..., Replay]]:
    """Play these transcripts of a server, after those that tell who it is."""
    with ExitStack() as stack:

        def play(server: str, *names: str | dict[str, Any]) -> Replay:
            identity = [load(server, name) for name in IDENTITY.get(server, ["models"])]
            more = [load(server, name) if isinstance(name, str) else name for name in names]
            return stack.enter_context(Replay([*identity, *more]))

        yield play


@pytest.fixture
def backend() -> Iterator[Callable[..., OpenAIBackend]]:
    """A backend for a replayed server of this kind, closed after the test."""
    made: list[OpenAIBackend] = []

    def make(server: str, played: Replay, **options: Any) -> OpenAIBackend:
        base = played.root + BASES.get(server, "/v1")
        chosen = {"server": server, "verify": "off", **OPTIONS[server], **options}
        made.append(OpenAIBackend(base_url=base, **chosen))
        return made[-1]

    yield make
    for one in made:
        one.close()
