"""Figures and verdict of a bench whose outcome is known."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from glimp_integrations import ConfigError
from glimp_integrations.bench import Store
from glimp_integrations.bench.report import markdown, write_report
from glimp_integrations.bench.stats import wilson
from glimp_integrations.bench.summary import Summary, summarise
from glimp_integrations.bench.verdict import verdict
from glimp_integrations.runtime.speed import ModelSpeed, PairSpeed
from glimp_integrations.trace.records import StepRecord, Usage
from glimp_integrations.trace.trace import Trace

N = 40


def line(
    arm: str,
    item: int,
    *,
    right: bool,
    seconds: float,
    cached: int = 5,
    concurrency: int = 1,
    uneven: int = 0,
) -> dict[str, Any]:
    routed = "@" in arm
    steps = [
        StepRecord(
            index=i,
            kind="reasoning",
            text="x",
            author=author,
            entropy=h if routed else None,
            estimator="topk_renorm@20",
            threshold=1.0,
            tokens=10 + uneven * (item % 3),
            discarded_tokens=1,
            requests=1,
            prefilled_tokens=50,
            cached_tokens=cached,
            first_token_seconds=0.1,
            seconds=1.0,
            end="delimiter",
        )
        for i, (author, h) in enumerate(
            [("small", 0.2), ("large", 1.4)] if routed else [(arm, None)] * 2
        )
    ]
    trace = Trace(
        small_model="S",
        large_model="L",
        strategy="fused",
        strategy_reason="",
        steps=steps,
        requests=2,
        prompt_tokens=50,
    )
    return {
        "kind": "answer",
        "arm": arm,
        "item": f"q{item}",
        "digest": "",
        "settings": "",
        "concurrency": concurrency,
        "seconds": seconds * (1 + item % 3 / 10),
        "score": float(right),
        "right": right,
        "marked": True,
        "extracted": "4",
        "reply": "4",
        "trace": trace.model_dump(mode="json"),
        "usage": Usage().model_dump(mode="json"),
    }


def made(folder: Path, right: dict[str, int], seconds: dict[str, float], **more: int) -> Summary:
    """Every arm has its first so many of 40 items right."""
    manifest = {"task": "a | task <b>", "small_model": "S", "large_model": "L", "settings": {}}
    with Store(folder, manifest) as store:
        for arm, wins in right.items():
            for i in range(N):
                store.add(line(arm, i, right=i < wins, seconds=seconds[arm], **more))
        return summarise(store)


CONTROL = "random(routed@1)"


def test_a_router_that_pays(tmp_path: Path) -> None:
    summary = made(
        tmp_path,
        {"small": 10, "large": 36, "routed@1": 36, CONTROL: 20},
        {"small": 1.0, "large": 4.0, "routed@1": 2.0, CONTROL: 2.0},
    )
    routed = summary.arm("routed@1")
    assert routed.accuracy.value == 0.9 and routed.step_share == routed.large_share == 0.5
    assert (routed.small_tokens, routed.large_tokens, routed.discarded) == (400, 400, 80)
    assert summary.between("routed@1", "large").time.value == pytest.approx(0.5)
    text = " ".join(verdict(summary))
    assert "saves 50 % of the time" in text and "level with the large model alone" in text
    assert "is better than random routing with the same share of steps" in text
    assert "Routing pays in time: routed@1" in text
    assert "small model alone, which needs no" not in text and "does no differently" not in text


@pytest.mark.parametrize(
    ("right", "seconds", "reason"),
    [
        ({"large": 36, "routed@1": 20}, {"large": 4.0, "routed@1": 2.0}, "less accurate"),
        ({"large": 36, "routed@1": 36}, {"large": 4.0, "routed@1": 5.0}, "not reliably faster"),
    ],
)
def test_a_router_that_does_not_pay(
    tmp_path: Path, right: dict[str, int], seconds: dict[str, float], reason: str
) -> None:
    text = " ".join(verdict(made(tmp_path, right, seconds)))
    assert f"Routing does not pay here: routed@1 is {reason}" in text


def test_what_entropy_and_the_large_model_add_is_doubted(tmp_path: Path) -> None:
    arms = {"small": 36, "large": 36, "routed@1": 36, "routed@2": 36, CONTROL: 36}
    seconds = {"small": 1.0, "large": 4.0, "routed@1": 2.0, "routed@2": 2.0, CONTROL: 2.0}
    text = " ".join(verdict(made(tmp_path, arms, seconds)))
    assert "not shown to be more accurate than the small model alone" in text
    assert "random routing with the same share does no differently" in text
    assert "Several thresholds were tried" in text


def test_unequal_caches_are_reported(tmp_path: Path) -> None:
    made(tmp_path, {"large": 3}, {"large": 4.0}, cached=5)
    summary = made(tmp_path, {"routed@1": 3}, {"routed@1": 2.0}, cached=90)
    assert any("times are not comparable" in text for text in verdict(summary))


def test_a_crowd_is_compared_by_what_one_answer_at_a_time_would_take(tmp_path: Path) -> None:
    right = {"large": 36, "routed@1": 36}
    seconds = {"large": 4.0, "routed@1": 5.0}
    plain = made(tmp_path / "plain", right, seconds, concurrency=4, uneven=1)
    assert not plain.by_ideal
    assert "not reliably faster" in " ".join(verdict(plain))

    small = ModelSpeed(request=0.0, token=0.01, prefill=0.0, release=0.0)
    speed = PairSpeed(small, replace(small, token=0.04), logprobs=0.0, slowdown=1.0)
    with Store(tmp_path / "plain", plain.manifest) as store:
        store.add({"kind": "speed", "speed": asdict(speed)})
        summary = summarise(store)
    large, routed = summary.arm("large"), summary.arm("routed@1")
    assert large.ideal == pytest.approx(0.8 * 10.975 / 10)
    assert routed.ideal == pytest.approx(0.625 * large.ideal)
    assert summary.seconds_of(routed) == routed.ideal and routed.rho is None
    text = " ".join(verdict(summary))
    # Exactly 37.5 %: Python 3.12 adds floats up more exactly than 3.11 does.
    assert re.search("saves 3[78] % of the time", text)
    assert "Routing pays in time: routed@1" in text
    assert "compared by the ideal" in text
    assert "ideal time ratio" in markdown(summary)
    write_report(Store(tmp_path / "plain"), None, Console(record=True))


def test_the_report_is_written_and_nothing_becomes_markup(tmp_path: Path) -> None:
    summary = made(tmp_path, {"large": 3, "routed@1": 2}, {"large": 4.0, "routed@1": 2.0})
    assert "# a \\| task &lt;b>" in markdown(summary)
    console = Console(record=True, width=160)
    write_report(Store(tmp_path), None, console)
    assert "a | task <b>" in console.export_text()
    for name in ("frontier.png", "entropy.png", "share.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_narrow_terminal_goes_without_columns_and_says_which(tmp_path: Path) -> None:
    made(tmp_path, {"large": 3, "routed@1": 2}, {"large": 4.0, "routed@1": 2.0})
    wide, narrow = Console(record=True, width=160), Console(record=True, width=72)
    write_report(Store(tmp_path), None, wide)
    write_report(Store(tmp_path), None, narrow)
    shown = narrow.export_text()
    assert "more in report.md" not in wide.export_text()
    assert "…" not in shown and "accuracy" in shown
    assert "more in report.md: tokens small" in shown


def test_a_folder_without_a_bench_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        Store(tmp_path)


def test_a_second_request_of_the_first_step_is_no_cache(tmp_path: Path) -> None:
    answer = line("routed@1", 0, right=True, seconds=1.0)
    answer["trace"]["steps"][0] |= {"requests": 2, "cached_tokens": 5 + 50}  # the prompt has 50
    with Store(tmp_path, {"task": "t", "settings": {}}) as store:
        store.add(answer)
    arm = summarise(Store(tmp_path)).arm("routed@1")
    assert arm is not None and arm.cached == 5


def test_repeats_are_averaged_and_fit_a_terminal(tmp_path: Path) -> None:
    manifest = {"task": "aime24", "small_model": "S", "large_model": "L", "settings": {}}
    chosen = {"large": (12, 15, 12, 15), "routed@1": (15, 18, 18, 15)}
    with Store(tmp_path, manifest) as store:
        for arm, wins in chosen.items():
            for repeat, right in enumerate(wins, 1):
                for i in range(30):
                    one = line(arm, i, right=i < right, seconds=2.0 if arm == "large" else 1.0)
                    store.add({**one, "repeat": repeat})
        summary = summarise(store)
    large, routed = summary.arms
    assert (large.n, large.accuracy.value, routed.accuracy.value) == (120, 0.45, 0.55)
    # Most items are always right or always wrong: little more is known than from one repeat.
    width = large.accuracy.high - large.accuracy.low
    once, all_of_them = wilson(14, 30), wilson(54, 120)
    assert all_of_them.high - all_of_them.low < width < once.high - once.low
    compared = summary.between("routed@1", "large")
    assert compared is not None and compared.n == 30
    assert compared.time.value == pytest.approx(0.5)
    text = markdown(summary)
    assert "| arm | pass@1, % | repeat 1 | repeat 2 | repeat 3 | repeat 4 |" in text
    assert "| large | 45.00 | 40.0 | 50.0 | 40.0 | 50.0 |" in text
    assert "sign-flip p" in text and "McNemar" not in text
    console = Console(record=True, width=80)
    write_report(Store(tmp_path), None, console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "54/120" in shown and "45 %" in shown and "4 repeats of every item" in shown
    assert "sign-flip p = " in shown


def test_without_repeats_the_report_says_nothing_of_them(tmp_path: Path) -> None:
    summary = made(tmp_path, {"large": 3, "routed@1": 2}, {"large": 4.0, "routed@1": 2.0})
    text = markdown(summary)
    assert "repeat" not in text and "pass@1" not in text and "McNemar p" in text
