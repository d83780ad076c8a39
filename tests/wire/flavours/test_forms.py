"""Flavours by name, by model string and by host; keys of hosted services; impossible requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import SecretStr

from glimp_integrations import io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.servers import FLAVOURS, FORMS, by_host
from glimp_integrations.backends.model_strings import parse
from glimp_integrations.errors import ConfigError
from wire.flavours.replay import Replay, load

HOSTED = [flavour for flavour in FORMS.values() if flavour.key is not None]


@pytest.mark.parametrize(
    ("form", "flavour", "name", "url"),
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
def test_form_names_flavour_model_and_address(form: str, flavour: str, name: str, url: str) -> None:
    backend = parse(form)
    assert isinstance(backend, OpenAIBackend)
    assert (backend.flavour.name, backend.name, backend.url) == (flavour, name, url)


@pytest.mark.parametrize("form", ["ollama:", "tgi:model", "tgi:", "deepseek:", "Ollama:m"])
def test_form_that_says_too_little_is_named_with_the_right_ones(form: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(form, role="small")
    for part in ("small", repr(form), "'ollama:MODEL'", "'openrouter:MODEL@PROVIDER'"):
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
    found = by_host(url)
    assert (found.name if found else None) == name


def test_hosted_service_is_recognised_without_a_request() -> None:
    backend = OpenAIBackend("deepseek-v4-pro", base_url="https://api.deepseek.com/beta")
    assert backend.flavour.name == "deepseek"
    assert backend.thinks


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["base_url is missing"]),
        ({"flavour": "tgi"}, ["base_url is missing"]),
        ({"flavour": "deepseek"}, ["deepseek", "model="]),
        ({"flavour": "openrouter", "model": "q/q"}, ["another host", "provider=", "q/q@PROVIDER"]),
        ({"flavour": "ollama", "model": "m", "provider": "x"}, ["provider is 'x'", "openrouter"]),
        ({"base_url": "http://h/v1", "provider": "x"}, ["provider is 'x'"]),
        ({"flavour": "mistral", "model": "m", "top_logprobs": 5}, ["top_logprobs is 5", "large"]),
        ({"flavour": "deepseek", "model": "m", "chat_template": "x"}, ["leave", "chat_template"]),
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
    OpenAIBackend("q/q", flavour="openrouter", extra_body={"provider": pin})


@pytest.mark.parametrize(
    ("name", "k"), [("ollama", 20), ("tgi", 5), ("together", 20), ("fireworks", 5), ("vllm", 20)]
)
def test_k_is_what_the_flavour_has(name: str, k: int) -> None:
    backend = OpenAIBackend("m", base_url="http://h/v1", flavour=name)
    assert backend.top_logprobs == k
    assert OpenAIBackend("m", base_url="http://h", flavour=name, top_logprobs=3).top_logprobs == 3


# -- keys ------------------------------------------------------------------------------------


def key_sent(form: str, played: Replay, **options: Any) -> str:
    backend = parse(f"{form}@{played.root}", **options)
    assert isinstance(backend, OpenAIBackend)
    io_loop.call(backend.models)
    backend.close()
    return played.seen[-1].headers["authorization"]


@pytest.mark.parametrize("flavour", HOSTED, ids=lambda f: f.name)
def test_service_has_a_variable_of_its_own(flavour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    form = f"{flavour.name}:m" + ("@somebody" if flavour.pins else "")
    monkeypatch.setenv(flavour.key, "sk-service")
    with Replay([{**load("mistral", "models"), "path": "/models"}]) as played:
        assert key_sent(form, played) == "Bearer sk-service"
        monkeypatch.setenv("GLIMP_API_KEY", "sk-project")
        assert key_sent(form, played) == "Bearer sk-service"
        assert key_sent(form, played, api_key=SecretStr("sk-project")) == "Bearer sk-service"
        assert key_sent(form, played, api_key=SecretStr("sk-given")) == "Bearer sk-given"
        monkeypatch.delenv(flavour.key)
        assert key_sent(form, played) == "Bearer sk-project"


def test_variables_of_services_stay_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for flavour in HOSTED:
        monkeypatch.setenv(str(flavour.key), "sk-service")
    with Replay([{**load("mistral", "models"), "path": "/models"}]) as played:
        assert key_sent("openai:m", played) == "Bearer EMPTY"
        assert key_sent("ollama:m", played) == "Bearer EMPTY"


def test_key_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-hidden")
    backend = parse("deepseek:m")
    assert "sk-" not in repr(backend) and "sk-" not in repr(vars(backend))


# -- the data --------------------------------------------------------------------------------


def test_flavours_are_called_by_their_names() -> None:
    assert all(name == flavour.name for name, flavour in FLAVOURS.items())
    assert len({h for f in FLAVOURS.values() for h in f.hosts}) == sum(
        len(f.hosts) for f in FLAVOURS.values()
    )


def test_large_only_flavours_continue_a_chat() -> None:
    for flavour in FLAVOURS.values():
        assert (flavour.max_logprobs == 0) is (flavour.protocol == "chat")
        assert flavour.key is None or re.fullmatch(r"[A-Z]+_API_KEY", flavour.key)
