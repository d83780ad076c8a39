"""The endpoint doctor: rows of ``check()`` and the command ``glimp check``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import io_loop
from glimp_integrations.backends.http.check import EndpointReport, ProbeResult
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.cli.app import app
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.entropy import estimate
from wire.fake_server import THINKING_TEMPLATE, FakeServer, Fault
from wire.helpers import CHAIN, chat, collect

Serve = Callable[..., FakeServer]
Connect = Callable[..., OpenAIBackend]
PROBES = [
    "P0 identity",
    "P1 rawness",
    "P2 logprobs",
    "P3 temperature",
    "P4 stream",
    "P6 tags",
    "P7 cache",
]


class Rows(dict[str, ProbeResult]):
    """Rows by the short name of their probe."""

    def __init__(self, report: EndpointReport) -> None:
        super().__init__((row.probe[:2], row) for row in report.results)
        self.report = report

    def verdicts(self) -> str:
        return " ".join(row.verdict for row in self.values())


def examine(backend: OpenAIBackend) -> Rows:
    report = io_loop.call(backend.check)
    assert [row.probe for row in report.results] == PROBES
    return Rows(report)


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_good_server_passes_every_probe(serve: Serve, connect: Connect, engine: str) -> None:
    server = serve(CHAIN, engine=engine)
    rows = examine(connect(server))
    report = rows.report
    assert rows.verdicts() == "ok ok ok ok ok ok " + ("ok" if engine == "llama.cpp" else "warn")
    assert report.usable_as_small and report.usable_as_large
    assert report.server == engine
    assert rows["P0"].detail == f"serves {server.model}, context 4,096 tokens"
    assert rows["P1"].detail == "1 character is 1 token(s)"
    shape = "content[]" if engine == "llama.cpp" else "legacy"
    assert rows["P2"].detail == f"20 per token ({shape})"
    assert "stop string removed, finish 'stop'" in rows["P4"].detail


def test_stop_string_is_put_to_the_test(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN)
    examine(connect(server))
    stopped_requests = [r.body for r in server.seen("/v1/completions") if "stop" in r.body]
    assert [body["prompt"] for body in stopped_requests] == ["1 2 3 4 5 6"]
    assert "8" in stopped_requests[0]["stop"]


def test_grouping_of_the_stream_is_reported(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(CHAIN, engine="vllm", group=3)))
    assert "token(s) a chunk" in rows["P4"].detail
    assert "up to 1 token" not in rows["P4"].detail


def test_dead_server_fails_identity_and_the_rest_is_skipped(
    connect: Connect, unused_tcp_port: int
) -> None:
    rows = examine(connect(f"http://127.0.0.1:{unused_tcp_port}/v1", "m"))
    assert rows["P0"].verdict == "fail" and "cannot be reached" in rows["P0"].detail
    assert rows.verdicts() == "fail skipped skipped skipped skipped skipped skipped"
    assert not rows.report.usable_as_large


def test_wrong_model_fails_identity_and_names_the_served(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(engine="vllm", model="served"), "wanted"))
    assert rows["P0"].verdict == "fail" and "served" in rows["P0"].detail
    assert rows["P0"].remedy


def test_wrong_key_fails_identity(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(api_key="right"), api_key="wrong"))
    assert rows["P0"].verdict == "fail" and "401" in rows["P0"].detail
    assert "wrong" not in str(rows.report)


def test_wrapped_prompt_fails_rawness(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(wraps=True)))
    assert rows["P1"].verdict == "fail"
    assert "prompt_tokens=23" in rows["P1"].detail and "Ollama" in rows["P1"].remedy
    assert not rows.report.usable_as_large


def test_rawness_without_usage_is_a_warning(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(engine="generic", usage=False), chat_template="x"))
    assert rows["P1"].verdict == "warn" and "not provable" in rows["P1"].detail
    assert rows.report.usable_as_small


def test_no_completions_route_fails_rawness(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(missing={"/v1/completions"})))
    assert rows["P1"].verdict == "fail" and "404" in rows["P1"].detail
    assert not rows.report.usable_as_large


def test_no_logprobs_leave_a_large_model(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(logprobs=0)))
    assert rows.verdicts() == "ok ok fail skipped warn ok ok"
    assert "large model only" in rows["P2"].remedy
    assert rows.report.usable_as_large and not rows.report.usable_as_small


def test_a_hidden_first_token_is_no_lack_of_logprobs(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, engine="generic", hushed={"a"})
    capabilities = io_loop.call(connect(server, chat_template="x").capabilities)
    assert (capabilities.top_logprobs, capabilities.streamed_logprobs) == (20, True)
    without = serve(CHAIN, logprobs=0)
    capabilities = io_loop.call(connect(without).capabilities)
    assert (capabilities.top_logprobs, capabilities.streamed_logprobs) == (0, False)
    assert len(without.seen("/v1/completions")) == 2


def test_refused_logprobs_leave_a_large_model_too(serve: Serve, connect: Connect) -> None:
    # First use accepts such a server as the large model; the examination has to agree.
    rows = examine(connect(serve(logprobs=0, refuse=True)))
    assert rows["P2"].verdict == "fail"
    assert rows.report.usable_as_large and not rows.report.usable_as_small


def test_fewer_logprobs_fail_with_the_setting_to_use(serve: Serve, connect: Connect) -> None:
    server = serve(logprobs=5)
    rows = examine(connect(server))
    assert rows["P2"].verdict == "fail" and "5 of 20" in rows["P2"].detail
    assert "top_logprobs=5" in rows["P2"].remedy
    assert rows.report.usable_as_large
    assert examine(connect(server, top_logprobs=5)).report.usable_as_small


def test_logprobs_behind_the_temperature_are_a_warning(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(tempered=True)))
    assert rows["P3"].verdict == "warn" and "temperature=1" in rows["P3"].remedy
    assert rows.report.usable_as_small


@pytest.mark.parametrize("tempered", [True, False])
def test_sglang_is_scaled_back_where_it_needs_it(
    serve: Serve, connect: Connect, tempered: bool
) -> None:
    # Log-probabilities of a fake with temperature 1 are those of its script: H is 2 nats.
    server = serve([(b"Then", 2.0)], engine="generic", tempered=tempered)
    backend = connect(server, server="sglang", chat_template=lambda _: chat())
    tokens, _ = collect(backend, chat(), max_tokens=1, logprobs=20, temperature=0.5)
    assert estimate(tokens[0].logprobs or (), "topk_renorm") == pytest.approx(2.0, abs=1e-6)
    row = examine(backend)["P3"]
    assert row.verdict == "ok" and ("scaled back" in row.detail) is tempered


def test_sglang_that_is_not_asked_is_believed_to_be_as_documented(
    serve: Serve, connect: Connect
) -> None:
    server = serve([(b"Then", 2.0)], engine="generic", tempered=True)
    backend = connect(server, server="sglang", verify="off", chat_template=lambda _: chat())
    tokens, _ = collect(backend, chat(), max_tokens=1, logprobs=20, temperature=0.5)
    assert estimate(tokens[0].logprobs or (), "topk_renorm") == pytest.approx(2.0, abs=1e-6)
    greedy, _ = collect(backend, chat(), max_tokens=1, logprobs=20, temperature=0.0)
    assert estimate(greedy[0].logprobs or (), "topk_renorm") == pytest.approx(2.0, abs=1e-6)


def test_no_template_fails_tags_with_the_remedy(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(engine="generic")))
    assert rows["P6"].verdict == "fail" and "chat_template=" in rows["P6"].remedy
    assert not rows.report.usable_as_large


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "no thinking tags"),
        ({"template": THINKING_TEMPLATE}, "<think>...</think>, opened by the router"),
        (
            {"generation_prompt": "<|im_start|>assistant\n<think>\n"},
            "<think>...</think>, opened by the template",
        ),
    ],
)
def test_tags_are_found_in_the_template(
    serve: Serve, connect: Connect, options: dict[str, Any], expected: str
) -> None:
    rows = examine(connect(serve(**options)))
    assert rows["P6"].verdict == "ok" and expected in rows["P6"].detail


def test_cached_tokens_of_a_repeated_prompt_are_seen(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN)
    row = examine(connect(server))["P7"]
    long = [r.body["prompt"] for r in server.seen("/v1/completions")][-2:]
    assert long[0] == long[1] and len(long[0].split()) > 400
    assert int(row.detail.split()[0]) == len(server.tokenize(long[0])) // 2


def test_no_sign_of_a_cache_is_a_warning_and_no_failure(serve: Serve, connect: Connect) -> None:
    rows = examine(connect(serve(CHAIN, engine="vllm")))
    assert rows["P7"].verdict == "warn" and "no faster" in rows["P7"].detail
    assert rows.report.usable_as_small


def test_prompt_that_does_not_fit_leaves_the_cache_unknown(serve: Serve, connect: Connect) -> None:
    # Its owner believes in a larger window than the server has.
    rows = examine(connect(serve(CHAIN, context_window=100), context_window=4096))
    assert rows["P7"].verdict == "warn" and "was refused" in rows["P7"].detail


def test_a_small_window_gets_a_shorter_prompt(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, context_window=600)
    assert examine(connect(server))["P7"].verdict == "ok"
    assert len(server.seen("/v1/completions")[-1].body["prompt"].split()) < 160


def test_cache_of_a_server_that_tells_nothing_shows_in_its_time(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(None, 1.5), (None, 0.2)])

    async def timed(*_: object) -> tuple[int | None, float]:
        return next(times)

    monkeypatch.setattr("glimp_integrations.backends.http.check_chat._timed", timed)
    rows = examine(connect(serve(CHAIN, engine="vllm")))
    assert rows["P7"].verdict == "ok" and "0.2 s, not 1.5 s" in rows["P7"].detail


def test_failing_probe_does_not_stop_the_others(serve: Serve, connect: Connect) -> None:
    fault = Fault("status", status=400, body="not today", times=1)
    rows = examine(connect(serve(faults=[fault])))
    assert rows["P1"].verdict == "fail" and "not today" in rows["P1"].detail
    assert rows.verdicts() == "ok fail ok ok ok ok ok"


def test_report_as_text_has_a_line_a_probe(serve: Serve, connect: Connect) -> None:
    server = serve(logprobs=5)
    lines = str(examine(connect(server)).report).splitlines()
    assert lines[0] == f"{server.model} at {server.url} (llama.cpp)"
    assert [line.split()[0] for line in lines[1:]] == ["ok", "ok", "fail", "ok", "ok", "ok", "ok"]


# -- glimp check -----------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "250")
    return lambda *arguments: CliRunner().invoke(app, ["check", *arguments])


def test_command_accepts_a_good_server(serve: Serve, run: Callable[..., Any]) -> None:
    server = serve(CHAIN)
    result = run("small", server.model_string)
    assert result.exit_code == 0, result.output
    assert f"{server.model} at {server.url} (llama.cpp)" in result.output
    assert all(probe in result.output for probe in PROBES)
    assert result.output.rstrip().endswith("\nusable as small model")


def test_command_refuses_a_small_model_without_logprobs(
    serve: Serve, run: Callable[..., Any]
) -> None:
    server = serve(CHAIN, logprobs=0)
    result = run("small", server.model_string)
    assert result.exit_code == 1
    assert result.output.rstrip().endswith("\nnot usable as small model")
    result = run("large", server.model_string)
    assert result.exit_code == 0
    assert result.output.rstrip().endswith("\nusable as large model")


def test_command_measures_a_pair_and_says_which_strategy_follows(
    serve: Serve, run: Callable[..., Any]
) -> None:
    small, large = serve(CHAIN, delay=0.001), serve(CHAIN, delay=0.004)
    result = run("pair", small.model_string, large.model_string)
    assert result.exit_code == 0, result.output
    assert "a token written" in result.output and "log-probabilities of a token" in result.output
    assert "': measured: " in result.output and " ms a step beyond its tokens" in result.output
    assert result.output.rstrip().endswith("\nusable as pair")


def test_command_measures_no_pair_that_cannot_work(serve: Serve, run: Callable[..., Any]) -> None:
    good, blind = serve(CHAIN), serve(CHAIN, logprobs=0)
    result = run("pair", blind.model_string, good.model_string)
    assert result.exit_code == 1 and "a token written" not in result.output
    assert result.output.rstrip().endswith("\nnot usable as pair")
    assert run("pair", good.model_string, blind.model_string).exit_code == 0
    for model_strings in (
        [good.model_string],
        [good.model_string, blind.model_string, good.model_string],
    ):
        result = run("pair", *model_strings)
        assert isinstance(result.exception, ConfigError)
        assert "takes the small and the large model" in str(result.exception)


def test_command_examines_several_and_fails_for_one(serve: Serve, run: Callable[..., Any]) -> None:
    good, bad = serve(model="good"), serve(model="bad", wraps=True)
    result = run("small", bad.model_string, good.model_string)
    assert result.exit_code == 1
    assert good.url in result.output and bad.url in result.output
    assert "prompt_tokens=23" in result.output


def test_command_reports_a_dead_server_without_traceback(
    run: Callable[..., Any], unused_tcp_port: int
) -> None:
    result = run("small", f"openai:m@http://127.0.0.1:{unused_tcp_port}/v1")
    assert result.exit_code == 1
    assert "cannot be reached" in result.output
    assert "Traceback" not in result.output


def test_command_names_what_it_does_not_understand(run: Callable[..., Any]) -> None:
    result = run("small", "nonsense")
    assert isinstance(result.exception, ConfigError)
    assert "'nonsense'" in str(result.exception)
    result = run("medium", "openai:m@http://127.0.0.1:9/v1")
    assert result.exit_code == 2
    assert "medium" in result.output
