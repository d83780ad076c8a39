"""``benchmarks/signals``: bounds for a share, and a task measured on scripted models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import model, script
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.signals.__main__ import Measurement
from benchmarks.signals.bounds import Tuned, between, tuned
from benchmarks.signals.figures import Way, control_share, figures, markdown
from benchmarks.signals.policies import SIGNALS, Recording, Start, starts
from glimp_integrations import GlimpRouter
from glimp_integrations.bench import Grade, Item, Task, parse_arms
from glimp_integrations.bench.formats import named_format
from glimp_integrations.method.policy import Glimpse, Glimpsed, StepStart
from glimp_integrations.method.steps import Step

BY_NAME = {signal.name: signal for signal in SIGNALS}
H, MARGIN, FIRST_TOKENS, SURE, HESITATION, PRIMING, PRIMED_H = SIGNALS


class TestBounds:
    def test_the_share_is_reached_on_the_tuning_data(self) -> None:
        values = [0.1 * i for i in range(10)]
        found = tuned(values, 0.3)
        assert found.bound is not None and found.reached == 0.3
        assert sum(value > found.bound for value in values) == 3

    def test_steps_without_a_value_count_as_steps(self) -> None:
        assert tuned([None] * 5 + [0.1, 0.2, 0.3, 0.4, 0.5], 0.3).reached == 0.3
        assert tuned([None] * 8 + [0.1, 0.2], 0.3) == Tuned(0.0, 0.2)  # all that can

    def test_equal_values_stay_together_and_the_nearest_share_is_taken(self) -> None:
        assert tuned([1.0, 1.0, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0], 0.3).reached == 0.2
        assert tuned([1.0, 1.0, 0.5, 0.5, 0, 0, 0, 0, 0, 0], 0.3).reached == 0.2  # as near as 0.4
        assert tuned([1.0] * 7 + [None] * 3, 0.3).reached == 0.7  # rather than never

    def test_a_signal_that_never_fires_has_no_bound(self) -> None:
        assert tuned([None, None], 0.3) == Tuned(None, 0.0)
        assert tuned([], 0.3) == Tuned(None, 0.0)
        assert not tuned([None, None], 0.3).decides
        assert not tuned([2.0, 2.0], 0.3).decides  # that is one model alone

    def test_steps_that_are_the_large_models_anyway_are_counted(self) -> None:
        values = [None, None, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        assert tuned(values, 0.3, always=2) == Tuned(0.8 - 0.05, 0.3)
        assert tuned(values, 0.1, always=2).reached == 0.3  # it decides at least once

    @given(st.lists(st.none() | st.floats(-5, 5), max_size=30), st.floats(0.05, 0.95))
    def test_what_is_said_to_be_reached_is(self, values: list[Any], share: float) -> None:
        found = tuned(values, share)
        fires = [v for v in values if v is not None and found.bound is not None and v > found.bound]
        assert found.reached == (len(fires) / len(values) if values else 0)
        assert bool(fires) == any(value is not None for value in values)

    @given(st.floats(-1e3, 1e3), st.floats(0, 10))
    def test_a_bound_separates_and_is_short(self, low: float, gap: float) -> None:
        high = low + gap
        if low < high:
            assert low <= between(low, high) < high
        assert between(0.1234567, 0.14) == 0.13
        assert between(-2.0, 3.0) == 0


def start(signals: dict[str, float | None], index: int = 1) -> Start:
    nothing = dict.fromkeys(["h", "margin", "first_tokens", "sure", "doubts"])
    return Start(index, {**nothing, **signals})


class TestSignals:
    def test_a_low_margin_calls_the_large_model(self) -> None:
        recorded = [start({"margin": m}) for m in (0.9, 0.8, 0.1, 0.7, 0.95)]
        found = MARGIN.tuned(recorded, 0.2)
        assert found.bound is not None and found.reached == 0.2
        (arm,) = parse_arms(MARGIN.arm(found.bound))
        policy = arm.settings["policy"]
        assert policy.bound == MARGIN.shown(found.bound)
        seen = [StepStart(1, glimpse=Glimpsed((1.0,), (m, 0.0))) for m in (0.1, 0.7)]
        assert [policy.decide(s).author for s in seen] == ["large", "small"]

    def test_nobody_in_doubt_is_no_doubt(self) -> None:
        recorded = [start({"doubts": float(n)}) for n in (0, 0, 0, 0, 1, 2, 0)]
        assert HESITATION.tuned(recorded[:4], 0.3) == Tuned(None, 0.0)
        found = HESITATION.tuned(recorded, 0.3)
        assert found.bound is not None and found.reached == pytest.approx(2 / 7)
        (arm,) = parse_arms(HESITATION.arm(found.bound))
        assert arm.settings["policy"].hesitant == 1
        (arm,) = parse_arms(HESITATION.arm(HESITATION.tuned(recorded, 0.1).bound or 0.0))
        assert arm.settings["policy"].hesitant == 2

    def test_priming_has_the_share_of_first_steps(self) -> None:
        recorded = [start({"h": 0.1 * i}, index=i % 5) for i in range(20)]
        assert PRIMING.tuned(recorded, 0.3) == Tuned(None, 0.2)
        assert PRIMED_H.tuned(recorded, 0.3).reached == 0.3
        one_step = [start({"h": 1.0}, index=0)] * 3
        for signal in (PRIMING, PRIMED_H):
            assert signal.tuned(one_step, 0.3) == Tuned(None, 1.0)

    @pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
    def test_each_has_an_arm(self, signal: Any) -> None:
        (arm,) = parse_arms(signal.arm(0.25))
        assert arm.kind == "routed"


class TestRecording:
    def test_every_signal_of_a_step_is_noted(self) -> None:
        policy = Recording(0.5)
        asked = policy.decide(StepStart(0))
        assert asked == Glimpse(tokens=4, probabilities=True)
        doubt = Step(0, "small", 0.1, False, text="Wait, no.\n", tokens=4, measured=4, sure=3)
        glimpsed = Glimpsed((2.0, 0.0), (0.5, 0.25))
        decision = policy.decide(StepStart(1, steps=[doubt], glimpse=glimpsed))
        assert json.loads(decision.reason) == {
            "h": 2.0,
            "margin": 0.25,
            "first_tokens": 1.0,
            "sure": 0.75,
            "doubts": 1.0,
        }
        first = json.loads(policy.decide(StepStart(0, glimpse=glimpsed)).reason)
        assert (first["sure"], first["doubts"]) == (None, 0.0)

    def test_the_large_model_gets_its_share_whatever_the_signals_are(self) -> None:
        glimpses = [Glimpsed((h / 100,), (0.5,)) for h in range(2000)]
        large = [Recording(0.3).decide(StepStart(0, glimpse=g)).author == "large" for g in glimpses]
        assert sum(large) / 2000 == pytest.approx(0.3, abs=0.03)
        assert sum(large[:1000]) == pytest.approx(sum(large[1000:]), abs=50)


def questions(n: int, seed: int) -> Task:
    items = [Item(f"{seed}-{i}", f"Question {i} of {seed}?", "4") for i in range(n)]
    return Task("sums", items, named_format("plain"), lambda i, reply: Grade(float("4" in reply)))


@pytest.fixture
def measurement(tmp_path: Path) -> Measurement:
    chain = [t for n in range(3) for t in script("So ", (f"{n}", 0.5), ".", "\n\n")]
    chain = [*chain, *script(("It is", 2.5), " 4.", "")]
    backends = [model(chain, name=name, generation_prompt="<assistant>\n") for name in "SL"]
    return Measurement(GlimpRouter(*backends, temperature=0), tmp_path, {"temperature": 0.0}, 0.3)


class TestMeasurement:
    def test_from_recording_to_the_table(self, measurement: Measurement) -> None:
        ways = measurement.ways(questions(6, seed=1))
        # All replies are the same: H is 0, 0, 0 and 2.5, so only the last step of four can fire.
        by_name = {way.name: way for way in ways}
        h = by_name[H.name]
        assert h.tuned is not None and h.tuned.reached == 0.25
        assert h.arm == f"routed@{h.bound:g}"
        assert by_name[HESITATION.name].note == "never fires: small alone"
        assert by_name[HESITATION.name].arm is None
        assert by_name[PRIMING.name].tuned == Tuned(None, 0.25)
        summary = measurement.report(questions(4, seed=2), ways)
        data = figures(summary, ways, 0.3, {"task": "sums"})
        rows = {row["name"]: row for row in json.loads(json.dumps(data, allow_nan=False))["rows"]}
        assert [row["name"] for row in data["rows"]] == [way.name for way in ways]
        assert rows[H.name]["large_steps"] == 0.25
        assert rows[H.name]["against_random"]["arm"] == "random@0.3"
        assert rows[H.name]["right"]["value"] == 1.0
        assert rows["large alone"]["large_steps"] == 1 and "time" not in rows["large alone"]
        assert rows["small alone"]["time"]["value"] > 0
        table = markdown([data]).splitlines()
        assert len(table) == 2 + len(ways)
        assert {line.count("|") for line in table} == {10}
        assert f"| sums | {HESITATION.name} |  | never fires: small alone |" in "\n".join(table)

    def test_it_goes_on_where_it_was_stopped(self, measurement: Measurement) -> None:
        ways = measurement.ways(questions(3, seed=1))
        measurement.report(questions(2, seed=2), ways)
        before = sum(len(backend.requests) for backend in _pair(measurement))
        assert measurement.ways(questions(3, seed=1)) == ways
        measurement.report(questions(2, seed=2), ways)
        assert sum(len(backend.requests) for backend in _pair(measurement)) == before

    def test_starts_are_only_those_that_were_recorded(self) -> None:
        recorded = SimpleNamespace(index=2, policy="recording", reason='{"h": 1.0}')
        forced = SimpleNamespace(index=3, policy=None, reason="the small model ended its text")
        trace: Any = SimpleNamespace(steps=[recorded, forced])
        assert list(starts([trace])) == [Start(2, {"h": 1.0})]


def _pair(measurement: Measurement) -> list[Any]:
    return [measurement.router.small, measurement.router.large]


@pytest.mark.parametrize(
    ("reached", "control"),
    [(0.3, 0.3), (0.34, 0.3), (0.36, 0.4), (0.52, 0.5), (0.01, 0.05), (0.99, 0.95), (0, None)],
)
def test_the_control_has_nearly_the_same_share(reached: float, control: float | None) -> None:
    assert control_share(reached, 0.3) == control
    assert control_share(1.0, 0.3) is None


def test_a_way_without_an_arm_says_why() -> None:
    assert Way("x", None, None, Tuned(None, 0.0)).note == "never fires: small alone"
    assert Way("x", None, None, Tuned(None, 1.0)).note == "fires at every step: large alone"
    assert Way("x", "small").note == Way("x", "routed@1", 1.0, Tuned(1.0, 0.3)).note == ""
