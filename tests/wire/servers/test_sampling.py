"""top_k, min_p and the penalties on the wire: each server's own words, and H without penalties."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from glimp_integrations import ConfigError, GlimpRouter, io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.protocols.detect import detect_server
from glimp_integrations.backends.http.servers import SERVERS
from wire.fake_server import FakeServer
from wire.helpers import CHAIN, MESSAGES, chat, collect
from wire.servers.scripted_server import Scripted

ALL: dict[str, Any] = {
    "top_k": 20,
    "min_p": 0.05,
    "presence_penalty": 1.5,
    "repetition_penalty": 1.1,
}
OWN: dict[str, Any] = {
    "top_k": 20,
    "min_p": 0.05,
    "presence_penalty": 1.5,
    "repeat_penalty": 1.1,
}
# What arrives when all four are asked for, in the server's words.
WORDS: dict[str, dict[str, Any]] = {
    "llama.cpp": OWN,
    "vllm": ALL,
    "sglang": ALL,
    "ollama": OWN,
    "tgi": {"top_k": 20, "repetition_penalty": 1.1},
    "together": ALL,
    "fireworks": ALL,
    "deepseek": {"presence_penalty": 1.5},
    "mistral": {"top_k": 20, "presence_penalty": 1.5, "repetition_penalty": 1.1},
    "openrouter": ALL,
    "lmstudio": {"top_k": 20, "presence_penalty": 1.5, "repeat_penalty": 1.1},
    "litellm": ALL,
    "generic": {"presence_penalty": 1.5},
}
FIELDS = set(ALL) | set(OWN)
SCRIPTED = ("ollama", "tgi", "deepseek", "mistral", "openrouter")


class Bench:
    """Servers of any kind, backends for them, and what arrived."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def connect(self, kind: str, **options: Any) -> tuple[Any, OpenAIBackend]:
        if kind in SCRIPTED:
            server: Any = Scripted(CHAIN, kind)  # type: ignore[arg-type]
        else:
            engine = kind if kind in ("llama.cpp", "vllm") else "generic"
            server = FakeServer(CHAIN, engine=engine)  # type: ignore[arg-type]
            if engine == "generic":
                options.setdefault("chat_template", server.render)
        self._stack.enter_context(server)
        if kind == "openrouter":
            options["provider"] = "deepinfra"
        base = server.base if kind in SCRIPTED else server.url
        model = "scripted:1b" if kind in SCRIPTED else server.model
        backend = OpenAIBackend(model, base_url=base, server=kind, **{"verify": "off", **options})
        self._stack.callback(backend.close)
        return server, backend


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def arrived(server: Any) -> list[dict[str, Any]]:
    """Those fields of the requests for text, in order, wherever the server has them."""
    if isinstance(server, FakeServer):
        bodies = server.completions()
    else:
        routes = ("/api/generate", "/generate_stream", "/chat/completions")
        bodies = [body for route in routes for body in server.bodies(route)]
    inner = [{**b, **b.get("options", {}), **b.get("parameters", {})} for b in bodies]
    return [{name: body[name] for name in FIELDS & set(body)} for body in inner]


def prompt_of(backend: OpenAIBackend) -> str:
    if backend.protocol.exact_text:
        return chat()
    return io_loop.call(lambda: backend.render(MESSAGES)).text


def test_every_server_is_here() -> None:
    assert set(WORDS) == set(SERVERS)


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_settings_arrive_in_the_servers_own_words(bench: Bench, kind: str) -> None:
    server, backend = bench.connect(kind)
    collect(backend, prompt_of(backend), max_tokens=2, temperature=0.7, **ALL)
    (fields,) = arrived(server)
    words = WORDS[kind]
    assert {name: fields.get(name) for name in words} == words
    # What the server lacks is not sent, unless it is a value without effect.
    assert all(fields[name] in (0, 1) for name in set(fields) - set(words))
    assert io_loop.call(backend.capabilities).sampling == set(SERVERS[kind].sampling)


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_nothing_of_it_is_sent_unless_it_is_set(bench: Bench, kind: str) -> None:
    server, backend = bench.connect(kind)
    collect(backend, prompt_of(backend), max_tokens=2, temperature=0.7)
    (fields,) = arrived(server)
    assert all(value in (0, 1, -1) for value in fields.values())


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_greedy_requests_have_penalties_only(bench: Bench, kind: str) -> None:
    server, backend = bench.connect(kind)
    collect(backend, prompt_of(backend), max_tokens=2, temperature=0.0, **ALL)
    (fields,) = arrived(server)
    assert fields.get("top_k") in (None, -1, 0, 1)
    assert not fields.get("min_p")
    penalties = {n: v for n, v in WORDS[kind].items() if n not in ("top_k", "min_p")}
    assert {name: fields.get(name) for name in penalties} == penalties


def test_the_owners_own_fields_go_before_the_settings(bench: Bench) -> None:
    server, backend = bench.connect("vllm", extra_body={"top_k": 7})
    collect(backend, chat(), max_tokens=2, temperature=0.7, **ALL)
    assert arrived(server)[0]["top_k"] == 7


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_raw_log_probabilities_are_taken_from_the_stream_that_is_written(
    bench: Bench, kind: str
) -> None:
    server, small = bench.connect(kind)
    _, large = bench.connect(kind)
    trace = GlimpRouter(small, large, strategy="fused", seed=1, **ALL).run(MESSAGES).trace
    assert [s.author for s in trace.steps] == ["small", "large", "small"]
    assert all(fields == arrived(server)[0] for fields in arrived(server))
    assert arrived(server)[0]["presence_penalty"] == 1.5


@pytest.mark.parametrize("kind", ["sglang", "tgi", "together", "generic"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_glimpses_have_no_penalties_where_these_would_change_h(
    bench: Bench, kind: str, temperature: float
) -> None:
    server, small = bench.connect(kind)
    penalties = ("presence_penalty", "repetition_penalty")
    own = {n: ALL[n] for n in penalties if n in WORDS[kind]}
    _, large = bench.connect("vllm")
    result = GlimpRouter(small, large, temperature=temperature, **own).run(MESSAGES)
    assert result.trace.strategy == "two_request"
    assert [s.author for s in result.trace.steps] == ["small", "large", "small"]
    bodies = server.completions() if isinstance(server, FakeServer) else server.bodies("_stream")
    glimpses = [b.get("logprobs") or b.get("parameters", {}).get("top_n_tokens") for b in bodies]
    seen = {
        (bool(glimpse), tuple(fields.get(n) for n in own))
        for glimpse, fields in zip(glimpses, arrived(server), strict=True)
    }
    neutral = {"presence_penalty": 0.0, "repetition_penalty": 1.0}
    assert {flag for flag, _ in seen} == {True, False}
    for flag, values in seen:
        if flag:
            assert all(v in (None, neutral[n]) for n, v in zip(own, values, strict=True))
        else:
            assert values == tuple(own.values())
    without = GlimpRouter(small, large, temperature=temperature, strategy="two_request")
    entropies = [step.entropy for step in without.run(MESSAGES).trace.steps]
    assert [step.entropy for step in result.trace.steps] == entropies


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        ("tgi", "min_p=0.05 and presence_penalty=1.5"),
        ("mistral", "min_p=0.05"),
        ("deepseek", "top_k=20 and min_p=0.05 and repetition_penalty=1.1"),
        ("generic", "top_k=20 and min_p=0.05 and repetition_penalty=1.1"),
        ("lmstudio", "min_p=0.05"),
    ],
)
def test_a_server_without_a_setting_refuses_it_by_name(
    bench: Bench, kind: str, lacking: str
) -> None:
    server, large = bench.connect(kind)
    _, small = bench.connect("llama.cpp")
    with pytest.raises(ConfigError) as caught:
        GlimpRouter(small, large, **ALL).run(MESSAGES)
    for part in (f"{lacking}: the large model", f"({kind})", large.label, "Leave it out"):
        assert part in str(caught.value)
    assert not arrived(server)


def test_lm_studio_is_recognised_by_its_list_of_models() -> None:
    entry: Any = {"id": "qwen3-4b", "object": "model", "owned_by": "organization_owner"}
    backend = OpenAIBackend("qwen3-4b", base_url="http://127.0.0.1:9/v1")
    assert io_loop.call(lambda: detect_server(backend, [entry])).name == "lmstudio"
