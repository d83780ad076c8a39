"""Servers by name, by model string and by host; keys of hosted services; impossible requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import SecretStr

from glimp_integrations import io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS, SERVERS, hosted_at
from glimp_integrations.backends.model_strings import parse
from glimp_integrations.errors import ConfigError
from wire.servers.replay import Replay, load

HOSTED = [profile for profile in MODEL_STRING_SERVERS.values() if profile.key is not None]


@pytest.mark.parametrize(
    ("model_string", "server", "name", "url"),
    [
        ("ollama:qwen3:4b", "ollama", "qwen3:4b", "http://127.0.0.1:11434"),
        ("ollama:qwen3@http://gpu1:11434", "ollama", "qwen3", "http://gpu1:11434"),
        ("tgi:any@http://gpu1:8080", "tgi", "any", "http://gpu1:8080"),
        ("tgi:@http://gpu1:8080", "tgi", "the served model", "http://gpu1:8080"),
        ("together:Qwen/Qwen3-32B", "together", "Qwen/Qwen3-32B", "https://api.together.ai/v1"),
        (
            "fireworks:accounts/a/deployments/b",
            "fireworks",
            "accounts/a/deployments/b",
            "https://api.fireworks.ai/inference/v1",
        ),
        (
            "deepseek:deepseek-v4-pro",
            "deepseek",
            "deepseek-v4-pro",
            "https://api.deepseek.com/beta",
        ),
        ("mistral:magistral-medium", "mistral", "magistral-medium", "https://api.mistral.ai/v1"),
        (
            "openrouter:qwen/qwen3-32b@deepinfra/fp8",
            "openrouter",
            "qwen/qwen3-32b",
            "https://openrouter.ai/api/v1",
        ),
        ("openrouter:q/q@novita@http://h/api/v1", "openrouter", "q/q", "http://h/api/v1"),
    ],
)
def test_model_string_names_server_model_and_address(
    model_string: str, server: str, name: str, url: str
) -> None:
    backend = parse(model_string)
    assert isinstance(backend, OpenAIBackend)
    assert (backend.server.name, backend.name, backend.url) == (server, name, url)


@pytest.mark.parametrize("model_string", ["ollama:", "tgi:model", "tgi:", "deepseek:", "Ollama:m"])
def test_model_string_that_says_too_little_is_named_with_the_right_ones(model_string: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(model_string, role="small")
    for part in ("small", repr(model_string), "'ollama:MODEL'", "'openrouter:MODEL@PROVIDER'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.together.xyz/v1", "together"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.deepseek.com/beta", "deepseek"),
        ("http://gpu1:8000/v1", None),
        ("http://[", None),
    ],
)
def test_services_are_known_by_their_hosts(url: str, name: str | None) -> None:
    profile = hosted_at(url)
    assert (profile.name if profile else None) == name


def test_hosted_service_is_recognised_without_a_request() -> None:
    backend = OpenAIBackend("deepseek-v4-pro", base_url="https://api.deepseek.com/beta")
    assert backend.server.name == "deepseek"
    assert backend.thinks


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["base_url is missing"]),
        ({"server": "tgi"}, ["base_url is missing"]),
        ({"server": "deepseek"}, ["deepseek", "model="]),
        ({"server": "openrouter", "model": "q/q"}, ["another host", "provider=", "q/q@PROVIDER"]),
        ({"server": "ollama", "model": "m", "provider": "x"}, ["provider is 'x'", "openrouter"]),
        ({"base_url": "http://h/v1", "provider": "x"}, ["provider is 'x'"]),
        ({"server": "mistral", "model": "m", "top_logprobs": 5}, ["top_logprobs is 5", "large"]),
        ({"server": "deepseek", "model": "m", "chat_template": "x"}, ["leave", "chat_template"]),
        (
            {"model": "m", "base_url": "https://api.deepseek.com/v1"},
            ["api.deepseek.com/v1", "https://api.deepseek.com/beta"],
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIBackend(**options)
    for part in parts:
        assert part in str(caught.value)


def test_password_of_a_refused_address_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIBackend("m", base_url="https://jane:hunter2@api.deepseek.com/v1?key=hunter2")
    assert "hunter2" not in str(caught.value) and "api.deepseek.com/v1" in str(caught.value)


def test_host_may_be_named_among_the_owners_own_fields() -> None:
    pin = {"only": ["novita"], "allow_fallbacks": False}
    OpenAIBackend("q/q", server="openrouter", extra_body={"provider": pin})


@pytest.mark.parametrize(
    ("name", "k"), [("ollama", 20), ("tgi", 5), ("together", 20), ("fireworks", 5), ("vllm", 20)]
)
def test_k_is_what_the_server_has(name: str, k: int) -> None:
    backend = OpenAIBackend("m", base_url="http://h/v1", server=name)
    assert backend.top_logprobs == k
    assert OpenAIBackend("m", base_url="http://h", server=name, top_logprobs=3).top_logprobs == 3


# -- keys ------------------------------------------------------------------------------------


def key_sent(model_string: str, played: Replay, **options: Any) -> str | None:
    backend = parse(f"{model_string}@{played.root}", **options)
    assert isinstance(backend, OpenAIBackend)
    io_loop.call(backend.models)
    backend.close()
    return played.seen[-1].headers.get("authorization")


@pytest.mark.parametrize("profile", HOSTED, ids=lambda f: f.name)
def test_service_has_a_variable_of_its_own(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model_string = f"{profile.name}:m" + ("@somebody" if profile.requires_provider else "")
    monkeypatch.setenv(profile.key, "sk-service")
    with Replay([{**load("mistral", "models"), "path": "/models"}]) as played:
        assert key_sent(model_string, played) == "Bearer sk-service"
        monkeypatch.setenv("GLIMP_API_KEY", "sk-project")
        assert key_sent(model_string, played) == "Bearer sk-service"
        assert (
            key_sent(model_string, played, api_key=SecretStr("sk-project")) == "Bearer sk-service"
        )
        assert key_sent(model_string, played, api_key=SecretStr("sk-given")) == "Bearer sk-given"
        monkeypatch.delenv(profile.key)
        assert key_sent(model_string, played) == "Bearer sk-project"


def test_variables_of_services_stay_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in HOSTED:
        monkeypatch.setenv(str(profile.key), "sk-service")
    with Replay([{**load("mistral", "models"), "path": "/models"}]) as played:
        assert key_sent("openai:m", played) is None
        assert key_sent("ollama:m", played) is None


def test_key_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-hidden")
    backend = parse("deepseek:m")
    assert "sk-" not in repr(backend) and "sk-" not in repr(vars(backend))


# -- the data --------------------------------------------------------------------------------


def test_servers_are_called_by_their_names() -> None:
    assert all(name == profile.name for name, profile in SERVERS.items())
    assert len({h for f in SERVERS.values() for h in f.hosts}) == sum(
        len(f.hosts) for f in SERVERS.values()
    )


def test_large_only_servers_continue_a_chat() -> None:
    for profile in SERVERS.values():
        assert (profile.max_logprobs == 0) is (profile.protocol == "chat")
        assert profile.key is None or re.fullmatch(r"[A-Z]+_API_KEY", profile.key)
