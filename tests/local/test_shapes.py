"""``python -m benchmarks.shapes``: the program for a card, run here with tiny shapes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.shapes import arms, models, passes
from benchmarks.shapes.__main__ import main
from benchmarks.shapes.arms import AuthorsLoop, Drawn, Pair, draw_authors
from benchmarks.shapes.models import PAIRS, make_model, make_tokenizer, word
from glimp_integrations import StepStart
from glimp_integrations.method import accounts
from glimp_integrations.method.policy import Author, Glimpse, Glimpsed, Write

CPU = torch.device("cpu")
AUTHORS: tuple[Author, ...] = ("small", "large", "large", "small")
STEP = 5


@pytest.fixture(scope="module")
def two_models() -> dict[Author, Any]:
    small, large = PAIRS["tiny"]
    return {"small": make_model(small, CPU, 1), "large": make_model(large, CPU, 2)}


def test_all_parts_run_and_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    short = ["--steps", "4", "--step-tokens", str(STEP), "--prompt-tokens", "20", "--rounds", "1"]
    main(["--shapes", "tiny", "--device", "cpu", *short, "--json", str(file)])
    figures = json.loads(file.read_text())
    assert Counter(figures["authors"]) == {"small": 3, "large": 1}
    assert figures["tokens"] == 4 * STEP
    assert all(figures["token_seconds"][arm] > 0 for arm in figures["seconds"])
    assert figures["rho"] > 0 and figures["token_ratio"] > 0
    assert set(figures["hand_over"]) == {"small", "large"}
    for role in ("small", "large"):
        ways = figures["passes"][role]["ways"]
        assert set(ways) == {"eager", "static cache"}
        assert all(way["token"] > 0 for way in ways.values())
        assert figures["passes"][role]["launch_bound"] is None
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__}" in shown and "transformers " in shown
    assert f"needs {figures['need']['total']:,} bytes" in shown
    assert "routed against the authors' loop, caches kept" in shown


def test_the_shapes_have_the_makers_sizes() -> None:
    counts = {
        shape.name: shape.weights().count
        for name, pair in PAIRS.items()
        for shape in pair
        if name != "tiny"
    }
    assert counts == {
        "Qwen3-1.7B": 1_720_574_976,
        "Qwen3-4B": 4_022_468_096,
        "Qwen3-32B": 32_762_123_264,
    }


def test_weights_are_bfloat16_where_they_were_made_and_repeatable() -> None:
    shape = PAIRS["tiny"][1]
    before = torch.random.get_rng_state()
    model, again, other = (make_model(shape, CPU, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() * p.itemsize for p in model.parameters()) == shape.weights().bytes
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
    assert model.lm_head.weight.float().std() == pytest.approx(0.02, rel=0.1)


def test_too_little_memory_is_said_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "free_bytes", lambda _: 1_234_567)
    with pytest.raises(SystemExit, match=r"tiny and less tiny need [\d,]+ bytes .* 1,234,567"):
        main(["--shapes", "tiny", "--device", "cpu"])


def test_a_machine_without_a_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        main([])


@pytest.mark.parametrize(
    ("wrong", "what"), [(["--steps", "0"], "--steps is 0"), (["--share", "2"], "--share is 2")]
)
def test_impossible_numbers_are_refused(
    wrong: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--shapes", "tiny", "--device", "cpu", *wrong])
    assert what in capsys.readouterr().err


def test_every_id_is_a_word() -> None:
    tokenizer = make_tokenizer(300)
    ids = [0, 299, 7, 7, 16, 255]
    text = tokenizer.decode(ids)
    assert text == "".join(map(word, ids))
    assert tokenizer.encode(text) == ids


def test_decisions_are_drawn_beforehand_at_the_share() -> None:
    authors = draw_authors(40, 0.25, seed=7)
    assert Counter(authors) == {"small": 30, "large": 10}
    assert authors == draw_authors(40, 0.25, seed=7) != draw_authors(40, 0.25, seed=8)


def test_a_drawn_step_is_glimpsed_at_first() -> None:
    policy = Drawn(AUTHORS)
    assert isinstance(policy.decide(StepStart(1)), Glimpse)
    decision = policy.decide(StepStart(1, glimpse=Glimpsed((3.0,))))
    assert isinstance(decision, Write) and decision.author == "large"


def test_routed_text_and_the_authors_loop_follow_the_same_decisions(
    two_models: dict[Author, Any],
) -> None:
    pair = Pair(two_models, make_tokenizer(512), prompt_tokens=20, step=STEP, seed=1)
    try:
        _, trace = pair.routed(AUTHORS)
        _, read_kept = pair.by_authors_loop(AUTHORS, keeps=True)
        _, read_anew = pair.by_authors_loop(AUTHORS, keeps=False)
    finally:
        pair.close()
    assert [step.author for step in trace.steps] == [*AUTHORS]
    assert {step.tokens for step in trace.steps} == {STEP}
    assert all(step.entropy is not None for step in trace.steps)
    # The prompt and a step of the small model; then the last token that it wrote, at its next step.
    assert read_kept["large"] == 20 + STEP + 1
    assert read_anew["large"] == (20 + STEP) + (20 + 2 * STEP)
    # The prompt, and two steps of the large model; a token again at both of its own steps, and the
    # last one that it wrote at the glimpse after it.
    assert read_kept["small"] == 20 + 2 * STEP + 2 + 1
    assert read_anew["small"] == 4 * 20 + (0 + 1 + 2 + 3) * STEP + 20 + (20 + 3 * STEP)


def test_every_round_is_routed(
    two_models: dict[Author, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a real card a few rounds take the second after which routers compare by default.
    monkeypatch.setattr(accounts, "_NOTICED", -1.0)
    pair = Pair(two_models, make_tokenizer(512), prompt_tokens=20, step=STEP, seed=1)
    try:
        traces = [pair.routed(AUTHORS)[1] for _ in range(3)]
    finally:
        pair.close()
    assert [trace.route for trace in traces] == ["routed"] * 3


def test_kept_caches_do_not_change_what_the_authors_loop_writes(
    two_models: dict[Author, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = {role: make_model(PAIRS["tiny"][1], CPU, 5).double() for role in two_models}
    drawn = arms.sampling

    def without_chance(tokens: int, **options: Any) -> Any:
        config = drawn(tokens, **options)
        config.do_sample, config.temperature, config.top_k = False, 1.0, 50
        return config

    monkeypatch.setattr(arms, "sampling", without_chance)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    kept, anew = (AuthorsLoop(exact, keeps).write(prompt, AUTHORS, STEP) for keeps in (True, False))
    assert len(kept) == len(AUTHORS) * STEP
    assert kept == anew


def test_a_pass_of_a_card_is_bound_by_launching_where_submitting_is_all_of_it() -> None:
    card = torch.device("cuda")
    assert passes.launch_bound(card, 0.0099, 0.01) is True
    assert passes.launch_bound(card, 0.004, 0.01) is False


def test_a_way_that_fails_has_its_reason(
    two_models: dict[Author, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_generate(model: Any, length: int, tokens: int, **options: Any) -> float:
        if options:
            raise RuntimeError("no compiler\nand more")
        return 0.5

    monkeypatch.setattr(passes, "by_generate", by_generate)
    ways = passes.variants(two_models["small"], 8, 4, compiled=True)
    assert ways["eager"]["token"] == 0.5
    assert ways["static cache, compiled"] == {"failed": "RuntimeError: no compiler"}
