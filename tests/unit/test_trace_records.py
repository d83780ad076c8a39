"""Records of a trace: described, frozen, and the same after a round trip."""

from __future__ import annotations

import pickle

import pytest
from helpers import model, router
from pydantic import ValidationError

from glimp_integrations import BackendError, Glimpse, RoutedAnswer, StepStart, Trace, Write
from glimp_integrations.errors import PartialAnswer
from glimp_integrations.trace.records import Record, StepRecord, TraceData


def record_classes(base: type[Record] = Record) -> list[type[Record]]:
    """Every class of records."""
    return [kind for sub in base.__subclasses__() for kind in (sub, *record_classes(sub))]


class TestRecords:
    def test_all_kinds_are_looked_at(self):
        assert {StepRecord, Trace, TraceData, RoutedAnswer} < set(record_classes())

    @pytest.mark.parametrize("kind", record_classes(), ids=lambda kind: kind.__name__)
    def test_every_field_has_a_description(self, kind: type[Record]):
        undescribed = [n for n, field in kind.model_fields.items() if not field.description]
        assert undescribed == []

    def test_they_are_frozen(self):
        trace = router().run("?").trace
        with pytest.raises(ValidationError, match="frozen"):
            trace.strategy = "overlap"

    @pytest.mark.parametrize("threshold", [1.0, float("inf")])
    def test_pickle_and_json_give_the_same_answer(self, threshold: float):
        result = router(threshold=threshold).run("?")
        for copy in (
            pickle.loads(pickle.dumps(result)),
            RoutedAnswer.model_validate_json(result.model_dump_json()),
        ):
            assert copy == result
            assert type(copy.trace) is Trace


def test_a_partial_answer_is_a_routed_answer():
    with pytest.raises(BackendError) as caught:
        router(large=model(fail_after=1), max_retries=0).run("?")
    partial: PartialAnswer | None = caught.value.partial
    assert isinstance(partial, RoutedAnswer)
    assert partial.reasoning.startswith("Let me think")
    assert partial.trace.steps[0].author == "small"
    assert partial.usage.total_tokens > 0


class TestWriting:
    """Seconds and tokens after a step's first token."""

    def test_waiting_for_the_first_token_is_left_out(self):
        step = router().run("?").trace.steps[0]
        timed = step.model_copy(update={"seconds": 3.0, "first_token_seconds": 1.0, "tokens": 5})
        assert timed.writing == (2.0, 4)

    @pytest.mark.parametrize("unknown", [{"first_token_seconds": None}, {"tokens": 1}])
    def test_a_step_without_a_second_token_shows_no_speed(self, unknown: dict[str, object]):
        timed = {"seconds": 3.0, "first_token_seconds": 1.0, "tokens": 5, **unknown}
        assert router().run("?").trace.steps[0].model_copy(update=timed).writing == (0.0, 0)

    def test_a_policy_is_told_what_the_trace_says_afterwards(self):
        told: dict[int, dict[str, float]] = {}

        class Watching:
            def decide(self, start: StepStart) -> Glimpse | Write:
                told[start.index] = start.spent.token_seconds
                return Write("large" if start.index == 1 else "small")

        trace = router(policy=Watching()).run("?").trace
        before = trace.model_copy(update={"steps": trace.steps[:2]})
        assert set(told[2]) == {"small", "large"}
        for author, seconds in told[2].items():
            took, tokens = before.writing(author)
            assert tokens and seconds == pytest.approx(took / tokens)
