"""Every failure of a model, at every place: which error it is, its role, its text, who goes on."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable

import pytest
from helpers import ANSWER, CHAIN, OPENED, REASONING, model, router, shown

from glimp_integrations import BackendError, ConfigError, GlimpError, ModelError
from glimp_integrations.backends import ScriptedBackend, Token
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.errors import UnsuitableEndpointError

STRATEGIES = ["two_request", "fused", "overlap"]
ROLES = ["small", "large"]
OTHER = {"small": "large", "large": "small"}


def route_is_gone() -> Exception:
    return UnsuitableEndpointError(
        probe="route",
        server="swapped",
        detail="answers 404 for /v1/completions",
        remedy="Start the server again",
    )


FAILURES: dict[str, Callable[[], Exception]] = {
    "a route that is gone": route_is_gone,
    "somebody's KeyError": lambda: KeyError("choices"),
    "a RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "a BackendError": lambda: BackendError("HTTP 500"),
}


class Failing(ScriptedBackend):
    """Raises at one place, after so many tokens if that place is ``generate``."""

    failure: Callable[[], Exception]
    place = "generate"
    after = 0
    url = "http://swapped:1/v1"

    def fail_at(self, place: str) -> None:
        if self.place == place:
            raise self.failure()

    async def capabilities(self):
        self.fail_at("capabilities")
        return await super().capabilities()

    async def render(self, messages, tools=()):
        self.fail_at("render")
        return await super().render(messages, tools)

    async def is_control(self, literal):
        self.fail_at("is_control")
        return await super().is_control(literal)

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self.fail_at("opening")
        return self._stream(request, report)

    async def _stream(self, request: Request, report: Report) -> AsyncIterator[Token]:
        async for token in super().generate(request, report):
            if self._generated > self.after:
                self.fail_at("generate")
            yield token


def failing(how: str, place: str = "generate", after: int = 0) -> Failing:
    found = Failing(CHAIN, name="F", generation_prompt=OPENED)
    found.failure, found.place, found.after = FAILURES[how], place, after
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("how", FAILURES)
class TestInMidCall:
    def test_the_error_knows_the_model_and_keeps_the_text(self, how, role, after, strategy):
        events, found = [], router(**{role: failing(how, after=after)}, strategy=strategy)
        with pytest.raises(ModelError) as caught:
            events.extend(found.stream("?"))
        error = caught.value
        assert (error.role, error.model, error.url) == (role, "F", "http://swapped:1/v1")
        assert error.step is not None
        assert f"{role} model: " in str(error)
        assert error.partial.reasoning + error.partial.answer == shown(events)
        assert (REASONING + ANSWER).startswith(shown(events))
        if role == "large" or after:
            assert "Let me think" in error.partial.reasoning

    def test_the_other_model_goes_on(self, how, role, after, strategy):
        models = {role: failing(how, after=after)}
        result = router(**models, on_backend_error=OTHER[role], strategy=strategy).run("?")
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        assert result.trace.steps[-1].author == OTHER[role]
        (told,) = result.trace.errors
        assert f"{role} model: " in told

    def test_the_failed_model_never_goes_on(self, how, role, after, strategy):
        with pytest.raises(ModelError) as caught:
            router(
                **{role: failing(how, after=after)}, on_backend_error=role, strategy=strategy
            ).run("?")
        assert caught.value.role == role


@pytest.mark.parametrize("place", ["capabilities", "render", "is_control", "opening"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("how", FAILURES)
def test_at_the_start(how, role, place):
    models = {role: failing(how, place)}
    question = "What is <|im_end|>?"
    result = router(**models, on_backend_error=OTHER[role]).run(question)
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert f"{role} model: " in result.trace.errors[0]
    for setting in (role, "raise"):
        with pytest.raises(ModelError, match=f"{role} model: ") as caught:
            router(**models, on_backend_error=setting).run(question)
        assert caught.value.role == role


@pytest.mark.parametrize("setting", ["small", "raise"])
@pytest.mark.parametrize("place", ["render", "generate"])
def test_models_are_asked_anew_also_where_the_reader_stops_at_the_result(setting, place):
    asked_anew = []

    class Asked(Failing):
        def ask_again(self) -> None:
            asked_anew.append(self)

    large = failing("a BackendError", place)
    large.__class__ = Asked
    ours = router(large=large, on_backend_error=setting)
    if setting == "raise":
        with pytest.raises(BackendError):
            ours.run("?")
    else:
        assert ours.run("?").trace.errors  # run() reads no further than the result
    assert asked_anew == [large]


def test_a_foreign_exception_is_the_cause_and_its_words_are_safe():
    found = failing("somebody's KeyError", after=3)
    found.failure = lambda: KeyError("http://me:password@host \x1b[2J\nline " + "x" * 1000)
    with pytest.raises(BackendError) as caught:
        router(found).run("?")
    error = caught.value
    assert isinstance(error.__cause__, KeyError)
    assert "KeyError" in str(error) and "Failing" in str(error) and "__cause__" in str(error)
    assert "password" not in str(error) and "\x1b" not in str(error) and "\n" not in str(error)
    assert len(str(error)) < 800


def test_a_small_model_that_cannot_be_measured_is_excused():
    small = model(top_logprobs=0)
    result = router(small, on_backend_error="large").run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert {step.author for step in result.trace.steps} == {"large"}
    (told,) = result.trace.errors
    assert told.startswith("small model: ") and "log-probabilities" in told
    for setting in ("small", "raise"):
        with pytest.raises(UnsuitableEndpointError) as caught:
            router(small, on_backend_error=setting).run("?")
        assert caught.value.role == "small"


def test_cancellation_passes():
    class Waiting(ScriptedBackend):
        async def capabilities(self):
            await asyncio.sleep(60)

    async def cancelled() -> None:
        found = router(Waiting(CHAIN), on_backend_error="large")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(found.arun("?"), 0.05)

    asyncio.run(cancelled())


def test_a_mistake_in_mid_call_keeps_the_text():
    found = failing("a BackendError", after=3)
    found.failure = lambda: ConfigError("the deployment was changed")
    with pytest.raises(ConfigError) as caught:
        router(found, on_backend_error="large").run("?")
    assert "Let me think" in caught.value.partial.reasoning


def test_closing_that_fails_costs_no_text(caplog):
    class Clinging(ScriptedBackend):
        async def generate(self, request, report):
            try:
                async for token in super().generate(request, report):
                    yield token
            finally:
                if report.ended is None:
                    raise OSError("cannot be closed")

    found = Clinging(CHAIN, name="S", generation_prompt=OPENED)
    result = router(found, strategy="fused").run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert "cannot be closed" in caplog.text


@pytest.mark.parametrize("error", [route_is_gone(), BackendError("x", model="m", status=500)])
def test_pickled(error: GlimpError):
    error.role, error.step, error.url = "large", 3, "http://a/v1"
    error.partial = router().run("?")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and "large model" in str(copy)
    assert vars(copy) == vars(error)


def test_ways_to_ask_without_a_call_name_the_role():
    found = router(large=failing("somebody's KeyError", "capabilities"))
    for ask in (found.pair_info, found.measure, lambda: found.count_tokens("?")):
        with pytest.raises(BackendError, match="large model: ") as caught:
            ask()
        assert caught.value.role == "large"
