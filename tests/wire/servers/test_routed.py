"""Whole routed answers over the wire shapes of Ollama, TGI and the chat services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import GlimpRouter, UnsuitableEndpointError, io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.cli.app import app
from glimp_integrations.errors import ConfigError
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.trace.trace import RoutedAnswer
from wire.fake_server import FakeServer
from wire.helpers import (
    ANSWER,
    CHAIN,
    GREEDY,
    MESSAGES,
    REASONING,
    THOUGHT,
    THOUGHT_ANSWER,
    THOUGHT_REASONING,
)
from wire.servers.scripted_server import Scripted

Serve = Callable[..., Scripted]
Connect = Callable[..., OpenAIBackend]
LARGE = ["deepseek", "mistral", "openrouter"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Scripted(*args, **options))


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[OpenAIBackend] = []

    def make(server: Scripted, **options: Any) -> OpenAIBackend:
        chosen: dict[str, Any] = {"server": server.wire, "model": "scripted:1b", **options}
        if server.wire == "openrouter":
            chosen.setdefault("provider", "deepinfra")
        made.append(OpenAIBackend(base_url=server.base, **chosen))
        return made[-1]

    yield make
    for one in made:
        one.close()


def authors(answer: RoutedAnswer) -> list[str]:
    return [step.author for step in answer.trace.steps]


def thinking(on: bool) -> dict[str, Any]:
    return {"template_kwargs": {"enable_thinking": on}}


@pytest.mark.parametrize("strategy", ["two_request", "fused"])
@pytest.mark.parametrize("large", LARGE)
def test_ollama_is_glimpsed_and_a_chat_writes_the_hard_step(
    serve: Serve, connect: Connect, large: str, strategy: str
) -> None:
    small, big = serve(CHAIN, "ollama"), serve(CHAIN, large)
    router = GlimpRouter(
        connect(small), connect(big, **thinking(False)), strategy=strategy, **GREEDY
    )
    answer = router.run(MESSAGES)
    assert (answer.reasoning, answer.answer) == (REASONING, ANSWER)
    assert authors(answer) == ["small", "large", "small"]
    bodies = big.bodies("/chat/completions")
    assert [b["messages"][-1]["content"] for b in bodies] == ["First, look.\n\n"]
    assert all(b["raw"] for b in small.bodies("/api/generate"))


@pytest.mark.parametrize("large", ["deepseek", "mistral"])
def test_a_chat_writes_within_a_thought_and_the_answer_behind_it(
    serve: Serve, connect: Connect, large: str
) -> None:
    small, big = serve(THOUGHT, "ollama"), serve(THOUGHT, large)
    router = GlimpRouter(connect(small), connect(big, **thinking(True)), **GREEDY)
    answer = router.run(MESSAGES)
    assert (answer.reasoning, answer.answer) == (THOUGHT_REASONING, THOUGHT_ANSWER)
    assert authors(answer) == ["small", "large", "large"]
    assert answer.trace.stop_reason == "think_end"


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_tgi_is_glimpsed_greedily_with_five_log_probabilities(
    serve: Serve, connect: Connect, temperature: float
) -> None:
    small, big = serve(CHAIN, "tgi"), serve(CHAIN, "deepseek")
    settings = {**GREEDY, "temperature": temperature}
    router = GlimpRouter(connect(small), connect(big, **thinking(False)), **settings)
    answer = router.run(MESSAGES)
    assert (answer.reasoning, answer.answer) == (REASONING, ANSWER)
    assert authors(answer) == ["small", "large", "small"]
    assert answer.trace.strategy == "two_request"
    bodies = [b["parameters"] for b in small.bodies("/generate_stream")]
    glimpses = [p for p in bodies if "top_n_tokens" in p]
    steps = [p for p in bodies if "top_n_tokens" not in p]
    assert {p["top_n_tokens"] for p in glimpses} == {5}
    assert not any("temperature" in p or "do_sample" in p for p in glimpses)
    assert all(p.get("temperature", 0.0) == temperature for p in steps) and steps


def test_both_models_on_one_ollama(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, "ollama")
    answer = GlimpRouter(connect(server), connect(server), **GREEDY).run(MESSAGES)
    assert (answer.reasoning, answer.answer) == (REASONING, ANSWER)
    assert answer.usage.small.output_tokens > 0 and answer.usage.large.output_tokens > 0


@pytest.mark.parametrize("large", LARGE)
def test_chat_as_small_model_says_why_it_cannot(serve: Serve, connect: Connect, large: str) -> None:
    router = GlimpRouter(connect(serve(CHAIN, large)), connect(serve(CHAIN, "ollama")), **GREEDY)
    with pytest.raises(UnsuitableEndpointError) as caught:
        router.run(MESSAGES)
    for part in ("small model", "no top-k log-probabilities", large, "large model only"):
        assert part in str(caught.value)


def test_fused_is_refused_where_a_stream_has_no_raw_log_probabilities(
    serve: Serve, connect: Connect
) -> None:
    small, big = connect(serve(CHAIN, "tgi")), connect(serve(CHAIN, "deepseek"))
    with pytest.raises(ConfigError, match="two_request"):
        GlimpRouter(small, big, strategy="fused", **GREEDY).run(MESSAGES)


# -- Ollama ----------------------------------------------------------------------------------


def test_ollama_is_loaded_with_the_window_that_is_wanted(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, "ollama")
    capabilities = io_loop.call(connect(server, context_window=8192).capabilities)
    assert capabilities.context_window == 8192
    assert {b["options"]["num_ctx"] for b in server.bodies("/api/generate")} == {8192}


def test_ollama_tells_its_window_once_the_model_is_loaded(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, "ollama", window=2048)
    capabilities = io_loop.call(connect(server).capabilities)
    assert capabilities.context_window == 2048
    assert not any("num_ctx" in b["options"] for b in server.bodies("/api/generate"))


def test_window_beyond_what_the_model_was_made_for_is_refused(
    serve: Serve, connect: Connect
) -> None:
    with pytest.raises(ConfigError, match=r"40,000.*32,768"):
        io_loop.call(connect(serve(CHAIN, "ollama"), context_window=40_000).capabilities)


def test_model_that_was_not_fetched_says_how(serve: Serve, connect: Connect) -> None:
    backend = connect(serve(CHAIN, "ollama"), model="mistral")
    with pytest.raises(UnsuitableEndpointError, match="ollama pull mistral"):
        io_loop.call(backend.capabilities)


def test_options_of_the_owner_join_those_of_the_request(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, "ollama")
    extra = {"options": {"num_gpu": 0, "top_k": 5}, "keep_alive": "1h"}
    io_loop.call(connect(server, extra_body=extra).capabilities)
    (body,) = server.bodies("/api/generate")
    assert (body["keep_alive"], body["options"]["num_gpu"], body["options"]["top_k"]) == (
        "1h",
        0,
        5,
    )
    assert body["options"]["num_predict"] == 1 and body["raw"]


# -- who is it? ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "path", "options"),
    [
        ("ollama", "/v1", {}),
        ("ollama", "", {"version_only": True}),
        ("tgi", "", {}),
        ("tgi", "/v1", {}),
    ],
)
def test_own_apis_are_recognised(
    serve: Serve, wire: str, path: str, options: dict[str, Any]
) -> None:
    server = serve(CHAIN, wire, **options)
    model = None if path else "scripted:1b"
    model = "scripted:1b" if wire == "tgi" else model
    backend = OpenAIBackend(model, base_url=server.root + path)
    capabilities = io_loop.call(backend.capabilities)
    backend.close()
    assert backend.server.name == wire and capabilities.top_logprobs == backend.top_logprobs
    assert backend.name == "scripted:1b"


def test_unknown_server_is_asked_for_routes_of_its_own_and_stays_generic() -> None:
    with FakeServer(CHAIN, engine="generic") as server:
        backend = OpenAIBackend(server.model, base_url=server.url, chat_template="x")
        io_loop.call(backend.capabilities)
        backend.close()
        assert backend.server.name == "generic"
        assert len(server.seen("/api/version")) == len(server.seen("/info")) == 1


# -- check -----------------------------------------------------------------------------------

WORDS: list[str] = [
    w for n in ("one", "two", "three", "four", "five", "six", "seven", "eight") for w in (n, "\n\n")
]
THOUGHT_WORDS = ["<think>\n", "I go through the words one by one.", "\n\n", *WORDS]
EASY_WORDS = ["<think>\n", "This is easy.\n", "</think>", "\n\n", *WORDS]


class BothScripts(FakeServer):
    """Goes on from either of the two texts that P5 hands over."""

    def next_token(self, prompt: str, written: bytes) -> Any:
        easy = "This is easy." in prompt
        other = FakeServer(EASY_WORDS if easy else THOUGHT_WORDS)
        return other.next_token(prompt, written)


def examine(server: Scripted, backend: OpenAIBackend) -> dict[str, Any]:
    report = io_loop.call(backend.check)
    rows = {row.probe[:2]: row for row in report.results}
    assert "P1" not in rows and not report.usable_as_small
    rows["large"] = report.usable_as_large
    return rows


@pytest.mark.parametrize("large", LARGE)
def test_chat_that_continues_passes_p5(serve: Serve, connect: Connect, large: str) -> None:
    server = serve(WORDS, large)
    rows = examine(server, connect(server, **thinking(False)))
    assert (rows["P5"].verdict, rows["P2"].verdict, rows["large"]) == ("ok", "fail", True)
    assert "Usable as the large model only" in rows["P2"].remedy
    assert rows["P3"].verdict == "skipped" and rows["P6"].verdict == "ok"
    cached_text = "tokens of a repeated prompt were cached"
    assert (cached_text in rows["P7"].detail) is (rows["P7"].verdict == "ok") is True


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("trims", "blank line"), ("restarts", "repeated from its beginning"), ("silent", "nothing")],
)
def test_chat_that_does_not_continue_fails_p5(
    serve: Serve, connect: Connect, fault: str, expected: str
) -> None:
    server = serve(WORDS, "deepseek", fault=fault)
    rows = examine(server, connect(server, **thinking(False)))
    assert rows["P5"].verdict == "fail" and expected in rows["P5"].detail and rows["P5"].remedy
    assert not rows["large"]


def test_chat_that_thinks_anew_is_a_warning(serve: Serve, connect: Connect) -> None:
    server = serve(WORDS, "deepseek", fault="thinks_again")
    rows = examine(server, connect(server, **thinking(False)))
    assert rows["P5"].verdict == "warn" and "reasons again" in rows["P5"].detail and rows["large"]


@pytest.mark.parametrize(
    ("fault", "verdict", "expected"),
    [(None, "ok", "thought and answer are continued"), ("closes", "warn", "closed")],
)
def test_thoughts_are_put_to_the_test_where_the_model_thinks(
    serve: Serve, connect: Connect, fault: Any, verdict: str, expected: str
) -> None:
    server = serve([], "deepseek", fault=fault)
    server.model = BothScripts([])
    rows = examine(server, connect(server))
    assert (rows["P5"].verdict, rows["large"]) == (verdict, True), rows["P5"]
    assert expected in rows["P5"].detail
    assert "opened by the template" in rows["P6"].detail


def test_cache_that_keeps_nothing_is_a_warning(serve: Serve, connect: Connect) -> None:
    server = serve(WORDS, "deepseek", cached=False)
    rows = examine(server, connect(server, **thinking(False)))
    assert rows["P7"].verdict == "warn"


@pytest.mark.parametrize("wire", ["ollama", "tgi"])
def test_raw_apis_pass_every_probe(serve: Serve, connect: Connect, wire: str) -> None:
    report = io_loop.call(connect(serve(CHAIN, wire)).check)
    verdicts = {row.probe[:2]: row.verdict for row in report.results}
    assert verdicts.pop("P7") == "warn", "neither tells about its cache"
    assert set(verdicts.values()) == {"ok"} and "P5" not in verdicts, str(report)
    assert report.usable_as_small


def test_more_log_probabilities_than_documented_fail_p2_with_the_number(
    serve: Serve, connect: Connect
) -> None:
    report = io_loop.call(connect(serve(CHAIN, "tgi"), top_logprobs=20).check)
    row = next(r for r in report.results if r.probe == "P2 logprobs")
    assert row.verdict == "fail" and "top_logprobs=5" in row.remedy


def test_five_log_probabilities_come_with_a_word_on_the_threshold(
    serve: Serve, connect: Connect
) -> None:
    report = io_loop.call(connect(serve(CHAIN, "tgi")).check)
    row = next(r for r in report.results if r.probe == "P2 logprobs")
    assert row.verdict == "ok" and "calibrate one for 5" in row.remedy


def test_service_that_does_not_cancel_says_so(serve: Serve, connect: Connect) -> None:
    numbers = [str(n) if n == 7 else f" {n}" for n in range(1, 21)]
    server = serve(["1 2 3 4 5 6", *numbers[6:]], "mistral")
    rows = examine(server, connect(server, **thinking(False)))
    assert "billed" in rows["P4"].remedy


def test_command_examines_a_service_by_its_model_string(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    server = serve(WORDS, "openrouter")
    model_string = f"openrouter:scripted@deepinfra@{server.base}"
    result = CliRunner().invoke(app, ["check", "large", model_string])
    assert result.exit_code == 0, result.output
    assert "P5 continuation" in result.output and "(openrouter)" in result.output
    pinned = {"order": ["deepinfra"], "allow_fallbacks": False}
    assert all(body["provider"] == pinned for body in server.bodies("/chat/completions"))
    assert CliRunner().invoke(app, ["check", "small", model_string]).exit_code == 1


def test_tools_are_written_out_for_a_chat(serve: Serve, connect: Connect) -> None:
    weather = {
        "type": "function",
        "function": {"name": "get_weather", "description": "Of a city.", "parameters": {}},
    }
    small, big = serve(CHAIN, "ollama"), serve(CHAIN, "deepseek")
    router = GlimpRouter(connect(small), connect(big, **thinking(False)), **GREEDY)
    router.run(MESSAGES, output=OutputSpec(tools=(weather,)))
    (body,) = big.bodies("/chat/completions")
    assert "tools" not in body
    assert any("get_weather" in m["content"] for m in body["messages"])
