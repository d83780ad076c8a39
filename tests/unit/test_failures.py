"""When a model fails: raise with the text so far, go on alone, or try again."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest
from helpers import ANSWER, CHAIN, OPENED, REASONING, model, result_of, router, shown, steps

from glimp_integrations import BackendError, StepDone, StepStarted
from glimp_integrations.backends import ScriptedBackend, retries

STRATEGIES = ["two_request", "fused", "overlap"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_raise_keeps_what_was_written(strategy):
    large = model(name="L", fail_after=2)
    with pytest.raises(BackendError) as caught:
        router(large=large, strategy=strategy).run("?")
    error = caught.value
    assert (error.role, error.model) == ("large", "L")
    assert error.partial.reasoning == "Let me think\n\n2 + 2 = 4"
    assert error.partial.answer == ""
    assert [step.author for step in error.partial.trace.steps] == ["small", "large"]
    assert error.partial.usage.large.output_tokens == 2
    assert "large model: the script says: fail here" in str(error)
    assert ".partial" in str(error)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("failing", ["small", "large"])
@pytest.mark.parametrize("fail_after", range(1, 5))
def test_raise_counts_the_other_models_open_request(strategy, failing, fail_after):
    models = {"small": model(), "large": model(), failing: model(fail_after=fail_after)}
    with pytest.raises(BackendError) as caught:
        router(**models, strategy=strategy).run("?")
    trace, usage = caught.value.partial.trace, caught.value.partial.usage
    assert trace.requests == usage.small.requests + usage.large.requests


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_small_writes_the_rest(strategy):
    small, large = model(), model(fail_after=2)
    result = router(small, large, on_backend_error="small", strategy=strategy).run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert len(large.requests) == 1
    assert steps(result, "author", "text", "end")[1:3] == [
        ("large", "2 + 2 = 4", "error"),
        ("small", ".\n\n", "delimiter"),
    ]
    assert result.trace.steps[-1].author == "small"
    assert [step.entropy for step in result.trace.steps[2:]] == [None] * 3
    (told_error,) = result.trace.errors
    assert "large model" in told_error


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fail_after", [0, 1, 3])
def test_large_writes_the_rest(strategy, fail_after):
    small = model(fail_after=fail_after)
    result = router(small, on_backend_error="large", strategy=strategy).run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert result.trace.steps[-2].author == "large"
    assert len(result.trace.errors) == 1


def test_events_add_up_over_a_failure():
    events = list(router(large=model(fail_after=2), on_backend_error="small").stream("?"))
    assert shown(events) == REASONING + ANSWER
    started = [e.index for e in events if isinstance(e, StepStarted)]
    assert started == [e.record.index for e in events if isinstance(e, StepDone)]
    assert started == list(range(5))


def test_the_model_to_go_on_with_must_not_be_the_failed_one():
    with pytest.raises(BackendError, match="small model"):
        router(small=model(fail_after=1), on_backend_error="small").run("?")


def test_both_models_failing_raises():
    with pytest.raises(BackendError) as caught:
        router(model(fail_after=4), model(fail_after=2), on_backend_error="small").run("?")
    assert caught.value.role == "small"
    assert caught.value.partial.reasoning.startswith("Let me think\n\n2 + 2 = 4")


@pytest.fixture
def short_pauses(monkeypatch):
    """Half a second before a retry would be most of a test; test_retries.py is about its length."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fail_after", [0, 1, 2, 4])
def test_a_retry_continues_exactly(strategy, fail_after):
    flaky = {"fail_after": fail_after, "failures": 1, "retryable": True}
    sound = router(strategy=strategy).run("?")
    for role in ("small", "large"):
        events = list(router(strategy=strategy, **{role: model(**flaky)}).stream("?"))
        result = result_of(events)
        assert shown(events) == REASONING + ANSWER
        names = ("author", "text", "tokens", "end")
        assert steps(result, *names) == steps(sound, *names)
        assert result.trace.requests == sound.trace.requests + 1
        assert result.trace.errors == []


@pytest.mark.usefixtures("short_pauses")
def test_retries_are_counted():
    large = model(fail_after=1, failures=2, retryable=True)
    with pytest.raises(BackendError):
        router(large=large, max_retries=1).run("?")
    assert len(large.requests) == 2


def test_what_cannot_be_retried_is_not():
    large = model(fail_after=1, failures=1, retryable=False)
    with pytest.raises(BackendError):
        router(large=large).run("?")
    assert len(large.requests) == 1


class Unreachable(ScriptedBackend):
    """Fails before the first step, as a server that is down."""

    async def capabilities(self):
        raise BackendError("cannot be reached", model=self.name)


@pytest.mark.parametrize("down", ["small", "large"])
def test_a_model_that_is_down_from_the_start_is_excused(down):
    alone = "large" if down == "small" else "small"
    models = {down: Unreachable(CHAIN, generation_prompt=OPENED), alone: model()}
    result = router(**models, on_backend_error=alone).run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert {step.author for step in result.trace.steps} == {alone}
    (told_error,) = result.trace.errors
    assert f"{down} model: cannot be reached" in told_error
    with pytest.raises(BackendError, match=f"{down} model: cannot be reached"):
        router(**models, on_backend_error=down).run("?")


class Heedless(ScriptedBackend):
    """Ignores the limit of one token, and goes on or fails behind it."""

    fails = False

    async def generate(self, request, report):
        single = request.max_tokens == 1
        if single:
            request = replace(request, max_tokens=10_000)
        received = 0
        async with aclosing(super().generate(request, report)) as tokens:
            async for token in tokens:
                if single and received and self.fails:
                    report.ended = None
                    raise BackendError("broken off")
                received += 1
                yield token


@pytest.mark.parametrize("fails", [False, True])
def test_what_stands_behind_a_glimpsed_token_ends_nothing(fails):
    small = Heedless(CHAIN, generation_prompt=OPENED)
    small.fails = fails
    result = router(small, strategy="two_request").run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert result.trace.stop_reason == "think_end"
