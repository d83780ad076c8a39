"""The command line against fake servers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import Trace, __version__
from glimp_integrations.cli.app import app, main
from wire.fake_server import THINKING_TEMPLATE, FakeServer, Fault
from wire.helpers import ANSWER, CHAIN, REASONING, THOUGHT, THOUGHT_ANSWER, THOUGHT_REASONING

Serve = Callable[..., FakeServer]


def ask(small: FakeServer, large: FakeServer, *more: str, **options: Any) -> Any:
    models = ["--small", small.model_string, "--large", large.model_string]
    arguments = ["ask", "What is it?", *models, "--temperature", "0", *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False, **options)


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glimp", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.mark.parametrize("strategy", ["auto", "two_request", "fused"])
def test_ask_prints_every_step_with_author_and_the_totals(serve: Serve, strategy: str) -> None:
    small, large = serve(CHAIN, model="little"), serve(CHAIN, model="big", engine="vllm")
    result = ask(small, large, "--strategy", strategy)
    assert result.exit_code == 0
    for paragraph in (REASONING + ANSWER).split("\n\n"):
        assert f"\n{paragraph}\n" in result.stdout
    assert "step 1  small model  H 0.10" in result.stdout
    assert "step 2  large model  H 2.00" in result.stdout
    assert "little: 10 tokens in 2 steps" in result.stdout  # the end of sequence is one
    assert "big: 5 tokens in 1 step" in result.stdout


def test_ask_separates_thinking_and_answer(serve: Serve) -> None:
    server = serve(THOUGHT, template=THINKING_TEMPLATE)
    result = ask(server, server)
    for line in (*THOUGHT_REASONING.split("\n\n"), THOUGHT_ANSWER):
        assert line.rstrip() in result.stdout
    assert "answer  large model" in result.stdout
    assert "think>" not in result.stdout


def test_ask_saves_a_trace_that_loads_back(serve: Serve, tmp_path: Path) -> None:
    small, large = serve(CHAIN, model="little"), serve(CHAIN, model="big")
    path = tmp_path / "trace.json"
    assert ask(small, large, "--trace", str(path), "--seed", "3").exit_code == 0
    trace = Trace.from_json(path.read_text(encoding="utf-8"))
    assert "".join(step.text for step in trace.steps) == REASONING + ANSWER
    assert [step.author for step in trace.steps] == ["small", "large", "small"]
    assert (trace.small_model, trace.large_model) == ("little", "big")
    assert Trace.from_json(trace.to_json()) == trace


def test_ask_saves_what_was_written_before_a_failure(
    serve: Serve, run_main: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    small = serve(CHAIN, model="little")
    large = serve(CHAIN, model="big", faults=[Fault("status", status=400, chat_only=True)])
    path = tmp_path / "trace.json"
    models = ["--small", small.model_string, "--large", large.model_string, "--temperature", "0"]
    code, _, err = run_main("ask", "What is it?", *models, "--trace", str(path))
    assert code == 1 and err.startswith("glimp: large model: ")
    trace = Trace.from_json(path.read_bytes())
    assert trace.steps[0].text == f"{REASONING.split(chr(10))[0]}\n\n"


def test_ask_reads_the_question_from_input(serve: Serve) -> None:
    server = serve(CHAIN)
    models = ["--small", server.model_string, "--large", server.model_string]
    result = CliRunner().invoke(app, ["ask", "-", *models], input="Why [bold]not[/bold]?\n")
    assert result.exit_code == 0
    assert "Why [bold]not[/bold]?" in server.completions()[0]["prompt"]


def test_ask_passes_its_options_on(serve: Serve) -> None:
    server = serve(CHAIN)
    ask(server, server, "--threshold", "-1", "--max-tokens", "7", "--seed", "5")
    (body,) = server.completions()
    assert (body["max_tokens"], body["seed"], body["temperature"]) == (7, 5, 0.0)
    assert "logprobs" not in body


def test_ask_routes_by_a_share_and_shows_its_bound(serve: Serve, tmp_path: Path) -> None:
    server, path = serve(CHAIN), tmp_path / "trace.json"
    result = ask(
        server, server, "--large-share", "0.5", "--first-large-steps", "1", "--trace", str(path)
    )
    assert result.exit_code == 0
    trace = Trace.from_json(path.read_text(encoding="utf-8"))
    assert [step.policy for step in trace.steps] == [None, "large_share", "large_share"]
    assert trace.steps[0].reason == "first_large_steps=1"
    header = f"step 2  large model  H 2.00 ██████████ > {trace.steps[1].level:.4g} nats\n"
    assert header in result.stdout
    assert "budget:" not in result.stdout and "large model alone" not in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-large-tokens", "1", "--first-large-steps", "2"], "budget: max_large_tokens=1"),
        (["--max-cost", "0.00001", "--prices", "0,1,0,2"], "budget: max_cost"),
    ],
)
def test_ask_says_what_a_budget_changed(serve: Serve, options: list[str], said: str) -> None:
    server = serve(CHAIN)
    result = ask(server, server, *options)
    assert result.exit_code == 0
    line, *_ = [line for line in result.stdout.splitlines() if "budget:" in line]
    assert line.startswith(said)


def test_ask_passes_deadline_and_route_on(serve: Serve) -> None:
    server = serve(CHAIN)
    result = ask(server, server, "--deadline", "60", "--route", "when_it_pays")
    assert result.exit_code == 0 and "budget:" not in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-cost", "0.5"], "--max-cost 0.5 needs the models' prices: add --prices"),
        (["--prices", "1,2"], "prices are '1,2'"),
        (["--large-share", "0.2", "--threshold", "1"], "threshold=1.0 and large_share=0.2: each"),
        (["--large-share", "2"], "large_share"),
        (["--deadline", "0"], "deadline"),
        (["--route", "sometimes"], "'sometimes'"),
    ],
)
def test_impossible_ways_to_route_are_one_line(
    serve: Serve,
    run_main: Callable[..., tuple[int, str, str]],
    options: list[str],
    message: str,
) -> None:
    model_string = serve().model_string
    models = ["--small", model_string, "--large", model_string]
    code, _, err = run_main("ask", "hi", *models, *options)
    assert code == 1 and message in err and err.count("\n") == 1


def test_text_of_a_model_is_not_read_as_markup(serve: Serve) -> None:
    server = serve(["[bold]", "[/nothing]", " [red]", "."])
    assert "[bold][/nothing] [red]." in ask(server, server).stdout


def test_output_of_a_pipe_has_no_colour_codes(serve: Serve) -> None:
    server = serve(CHAIN)
    assert "\x1b" not in ask(server, server).output


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"glimp {__version__}\n")


def test_no_command_shows_the_commands() -> None:
    result = CliRunner().invoke(app, [])
    assert all(command in result.output for command in ("ask", "pull", "check", "trace"))


def test_unknown_model_string_is_one_line_and_exit_code_1(
    run_main: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = run_main("ask", "hi", "--small", "gpt-4", "--large", "gpt-5")
    assert (code, out) == (1, "")
    assert err.startswith("glimp: small is 'gpt-4'") and err.count("\n") == 1


def test_impossible_option_is_one_line_and_exit_code_1(
    serve: Serve, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    model_string = serve().model_string
    models = ["--small", model_string, "--large", model_string]
    code, _, err = run_main("ask", "hi", *models, "--strategy", "magic")
    assert code == 1
    assert "strategy" in err and "'magic'" in err and err.count("\n") == 1


def test_failing_server_is_one_line_and_exit_code_1(
    serve: Serve, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    fault = Fault("status", status=400, body="first line\nsecond line", chat_only=True)
    good, bad = serve(CHAIN), serve(CHAIN, faults=[fault])
    code, _, err = run_main("ask", "hi", "--small", bad.model_string, "--large", good.model_string)
    assert code == 1
    assert err.startswith("glimp: small model: ") and err.count("\n") == 1


def test_interrupted_answer_has_shown_its_beginning(
    serve: Serve, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    large = serve(CHAIN, faults=[Fault("status", status=400, body="no", chat_only=True)])
    code, out, err = run_main(
        "ask", "hi", "--small", serve(CHAIN).model_string, "--large", large.model_string
    )
    assert code == 1
    assert "First, look." in out
    assert "large model" in err and large.url in err
