"""Model strings and which two models a router gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.llamacpp import LlamaCppBackend
from glimp_integrations.backends.model_strings import bundled_models, parse, resolve
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.errors import ConfigError
from wire.fake_server import FakeServer
from wire.helpers import ANSWER, CHAIN, GREEDY, MESSAGES, chain_of

Serve = Callable[..., FakeServer]


@pytest.mark.parametrize(
    ("model_string", "name", "url"),
    [
        ("openai:Qwen/Qwen3-4B@http://gpu1:8000/v1", "Qwen/Qwen3-4B", "http://gpu1:8000/v1"),
        ("openai:m@https://host/a/v1", "m", "https://host/a/v1"),
        ("openai:org/m@rev1@http://host/v1", "org/m@rev1", "http://host/v1"),
        ("openai:m:latest@http://host/v1", "m:latest", "http://host/v1"),
        ("openai:m@http://jane:pw@host:1/v1", "m", "http://host:1/v1"),
        ("openai:m@http://jane:pw@httpd.local/v1", "m", "http://httpd.local/v1"),
        ("openai:m@http://[::1]:8000/v1", "m", "http://[::1]:8000/v1"),
        ("openai:@http://host/v1", "the served model", "http://host/v1"),
    ],
)
def test_openai_model_string_names_model_and_url(model_string: str, name: str, url: str) -> None:
    backend = parse(model_string)
    assert isinstance(backend, OpenAIBackend)
    assert (backend.name, backend.url) == (name, url)


def test_llamacpp_form_names_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    backend = parse("llamacpp:~/models/tiny.gguf")
    assert isinstance(backend, LlamaCppBackend)
    assert (backend.name, backend.url) == ("tiny", None)
    with pytest.raises(ConfigError, match="no model file at") as caught:
        io_loop.call(backend.capabilities)
    assert str(tmp_path / "models" / "tiny.gguf") in str(caught.value)


def test_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        io_loop.call(parse(f"llamacpp:{path}").capabilities)


@pytest.mark.parametrize(
    "model_string",
    [
        "",
        "gpt-4",
        "openai:",
        "openai:m",
        "openai:m@host:8000/v1",
        "llamacpp:",
        "vllm:m@http://h",
        "http://host/v1",
        "OPENAI:m@http://h/v1",
    ],
)
def test_model_string_that_is_not_understood_is_named_with_the_right_ones(
    model_string: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(model_string, role="large")
    for part in ("large", repr(model_string), "openai:MODEL@http://", "llamacpp:"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "model_string", ["vllm:m@http://jane:hunter2@host/v1", "openai:http://jane:hunter2@host/v1"]
)
def test_password_in_a_model_string_that_is_not_understood_is_not_shown(model_string: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(model_string)
    assert all("hunter2" not in str(error) for error in chain_of(caught.value))
    assert "host/v1" in str(caught.value), "the value is still named"


# -- keys ------------------------------------------------------------------------------------


def keys_sent(server: FakeServer) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.requests}


def test_key_comes_from_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", "from-environment")
    server = serve(CHAIN, api_key="from-environment")
    with GlimpRouter(server.model_string, server.model_string, **GREEDY) as router:
        assert router.run(MESSAGES).answer == ANSWER
    assert keys_sent(server) == {"Bearer from-environment"}


def test_given_key_wins_over_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", "from-environment")
    server = serve(CHAIN)
    with GlimpRouter(server.model_string, server.model_string, api_key="given", **GREEDY) as router:
        router.run(MESSAGES)
    assert keys_sent(server) == {"Bearer given"}


def test_key_is_not_in_the_repr_of_what_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", "sk-hidden")
    backend = parse("openai:m@http://host/v1", api_key=SecretStr("sk-given"))
    assert "sk-" not in repr(backend) and "sk-" not in repr(vars(backend))
    assert "sk-" not in repr(vars(parse("openai:m@http://host/v1")))


def test_key_of_the_environment_stays_away_from_backend_objects(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", "from-environment")
    monkeypatch.setenv("OPENAI_API_KEY", "another-service")
    server = serve(CHAIN)
    backend = OpenAIBackend(server.model, base_url=server.url)
    GlimpRouter(backend, backend, **GREEDY).run(MESSAGES)
    backend.close()
    assert not any(key and ("environment" in key or "another" in key) for key in keys_sent(server))


# -- pairs -----------------------------------------------------------------------------------


def test_short_forms_are_owned_and_objects_are_not() -> None:
    mine = ScriptedBackend([])
    pair = resolve("openai:m@http://host/v1", mine)
    assert pair.large is mine
    assert isinstance(pair.small, OpenAIBackend)
    assert pair.owned == [pair.small]


@pytest.mark.parametrize(("given", "missing"), [("small", "large"), ("large", "small")])
def test_half_a_pair_names_what_is_missing(given: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"give {missing}="):
        resolve(**{given: "openai:m@http://host/v1"})


def test_the_core_uses_the_models_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("SMALL", "LARGE"):
        monkeypatch.setenv(f"GLIMP_{role}", f"openai:{role}@http://127.0.0.1:9/v1")
    router = GlimpRouter()
    assert (router.small.name, router.large.name) == ("SMALL", "LARGE")


def test_neither_model_is_the_bundled_models_once_per_process() -> None:
    pair = resolve()
    assert (pair.small, pair.large) == bundled_models() == bundled_models()
    assert pair.owned == []
    assert "0.5B" in pair.small.name and "1.5B" in pair.large.name


@pytest.mark.parametrize("value", [42, OpenAIBackend, ["openai:m@http://host/v1"]])
def test_something_else_is_refused_with_its_type(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        GlimpRouter(small=ScriptedBackend([]), large=value)  # type: ignore[arg-type]
    assert f"large is a {type(value).__name__}" in str(caught.value)


def test_error_of_a_short_form_says_which_model_it_was_for() -> None:
    with pytest.raises(ConfigError, match="small is 'gpt-4'"):
        GlimpRouter("gpt-4", "openai:m@http://host/v1")
