"""Thresholds replayed from answers of each model alone."""

from __future__ import annotations

import pytest

from benchmarks.replay import replay
from glimp_integrations.bench.summary import Answer
from glimp_integrations.trace.records import StepRecord, Usage
from glimp_integrations.trace.trace import Trace


def an_answer(
    item: str, entropy: float | None, right: bool, seconds: float, *, steps: int = 1
) -> Answer:
    author = "large" if entropy is None else "small"
    step = StepRecord(
        index=0,
        kind="answer",
        text="7",
        author=author,
        entropy=entropy,
        estimator="full",
        threshold=50.0,
        tokens=1,
        discarded_tokens=0,
        requests=1,
        prefilled_tokens=None,
        cached_tokens=None,
        first_token_seconds=seconds / 2,
        seconds=seconds,
        end="eos",
    )
    trace = Trace(
        small_model="s", large_model="l", strategy="fused", strategy_reason="", steps=[step] * steps
    )
    return Answer(item, right, float(right), True, seconds, None, trace, Usage())


def test_every_threshold_is_replayed() -> None:
    levels = {"a": 0.2, "b": 0.4, "c": 1.5, "d": 2.5}
    small = [an_answer(name, h, h < 1.0, 2.0) for name, h in levels.items()]
    large = [an_answer(name, None, name != "a", 4.0) for name in "abcd"]
    replayed = replay(small, large)
    assert (replayed.n, replayed.several, replayed.small, replayed.large) == (4, 0, 0.5, 0.75)
    assert replayed.only_large == 2
    assert replayed.auc == 1.0
    assert [(p.threshold, p.share, p.right) for p in replayed.points] == [
        (2.5, 0.0, 0.5),
        (1.5, 0.25, 0.75),
        (0.4, 0.5, 1.0),
        (0.2, 0.75, 1.0),
        (0.0, 1.0, 0.75),
    ]
    # Two by the small model, two by the large one after a glimpse of a second.
    assert replayed.points[2].time == (2 * 2.0 + 2 * 5.0) / 16.0
    assert replayed.points[2].at_random == pytest.approx((0.5 + 0.75) / 2)
    assert replayed.within(0.9).threshold == 0.4
    assert replayed.within(0.1).share == 0.0  # nothing is as fast as that; the fastest there is


def test_equal_entropies_stay_together_and_replies_of_several_steps_are_left_out() -> None:
    small = [an_answer(name, 1.0, True, 1.0) for name in "ab"]
    small.append(an_answer("c", 0.1, False, 1.0, steps=2))
    replayed = replay(small, [an_answer(name, None, True, 2.0) for name in "abcd"])
    assert (replayed.n, replayed.several, replayed.auc) == (2, 1, None)
    assert [point.share for point in replayed.points] == [0.0, 1.0]
    with pytest.raises(ValueError, match="in one step"):
        replay(small[2:], [an_answer("c", None, True, 2.0)])
