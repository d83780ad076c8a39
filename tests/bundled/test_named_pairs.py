"""A pair by name, on real weights: the bundled files under another name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glimp_integrations import Trace
from glimp_integrations.backends.model_strings import catalogue_models
from glimp_integrations.cli.app import app
from glimp_integrations.weights import pairs
from glimp_integrations.weights.memory import free_memory
from glimp_integrations.weights.pairs import BUNDLED, ModelPair
from langchain_glimp import ChatGlimpRouter

MINE = ModelPair(
    "mine", BUNDLED.small, BUNDLED.large, context_window=2048, sampling={"temperature": 0.0}
)


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pairs, "PAIRS", {**pairs.PAIRS, MINE.name: MINE})
    yield
    for model in catalogue_models(MINE.name):
        model.close()
    catalogue_models.cache_clear()


def test_a_pair_answers_on_the_command_line_and_in_a_framework(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    arguments = ["ask", "What is 2 + 3?", "--max-tokens", "8", "--trace", str(trace)]
    result = CliRunner().invoke(app, [*arguments, "--pair", "mine"], catch_exceptions=False)
    assert result.exit_code == 0
    by_option = Trace.from_json(trace.read_text(encoding="utf-8"))
    assert by_option.small_model == BUNDLED.small.file.name
    small, large = catalogue_models("mine")
    assert small.context_window == large.context_window == 2048
    assert small._server is None, "the command has closed what it opened"

    monkeypatch.setenv("GLIMP_PAIR", "mine")
    chat = ChatGlimpRouter(max_tokens=8)
    assert chat.temperature == 0.0
    message = chat.invoke("What is 2 + 3?")
    shown = message.additional_kwargs.get("reasoning_content", "") + str(message.content)
    assert shown == "".join(step.text for step in by_option.steps), "both greedy, as advised"


# That `glimp check pair --pair` measures the pair's models is tested in tests/wire.
@pytest.mark.slow
def test_a_pair_is_measured() -> None:
    result = CliRunner().invoke(app, ["check", "pair", "--pair", "mine"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "a token written" in result.stdout and "usable as pair" in result.stdout


def test_the_free_memory_is_known_where_there_is_no_gpu() -> None:
    import psutil

    free = free_memory()
    assert free is None or 0 < free <= psutil.virtual_memory().total
