"""Tokens that do not show the k likeliest: looked at again alone, and never taken for H = 0."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from helpers import ANSWER, REASONING, model, router, steps
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends import Backend, Capabilities, Rendered, Token
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.scripted import ScriptedBackend, uniform
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError
from glimp_integrations.method.entropy import estimate, measurable

Logprobs = tuple[float, ...]
INF, NAN = math.inf, math.nan

LACKING: dict[str, Callable[[Logprobs], Logprobs | None]] = {
    "none": lambda found: None,
    "empty": lambda found: (),
    "the written token alone, as if sure": lambda found: (0.0,),
    "nineteen": lambda found: found[:19],
    "a NaN": lambda found: (NAN, *found[1:]),
    "a NaN at the end": lambda found: (*found[:-1], NAN),
    "probabilities": lambda found: tuple(map(math.exp, found)),
    "zeros": lambda found: (0.0,) * 20,
    "all impossible": lambda found: (-INF,) * 20,
    "the likeliest twice": lambda found: (-0.1, -0.1, *found[2:]),
}


class Lacking(ScriptedBackend):
    """Shows something else behind the first token of a response, or everywhere."""

    change: Callable[[Logprobs], Logprobs | None]
    everywhere = False

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        place = 0
        async for token in super().generate(request, report):
            if token.logprobs is not None and (self.everywhere or place):
                token = replace(token, logprobs=self.change(token.logprobs))
            place += 1
            yield token


def lacking(how: str, *, everywhere: bool = False) -> Lacking:
    sound = model()
    found = Lacking(sound._next, name="S", generation_prompt=sound._generation_prompt)
    found.change, found.everywhere = LACKING[how], everywhere
    return found


@pytest.mark.parametrize("strategy", ["fused", "overlap", "two_request"])
@pytest.mark.parametrize("how", LACKING)
def test_what_a_stream_lacks_is_asked_for_alone(how, strategy):
    sound = router(strategy=strategy).run("q")
    small = lacking(how)
    result = router(small, strategy=strategy).run("q")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    names = ("author", "text", "end")
    assert steps(result, *names) == steps(sound, *names)
    assert [step.entropy for step in result.trace.steps] == pytest.approx(
        [step.entropy for step in sound.trace.steps]
    )
    assert any(step.author == "large" for step in result.trace.steps)
    assert any(r.distribution_only for r in small.requests) is (strategy != "two_request")


@pytest.mark.parametrize("strategy", ["fused", "overlap", "two_request"])
@pytest.mark.parametrize("how", LACKING)
def test_where_it_lacks_alone_too_nothing_is_decided(how, strategy):
    with pytest.raises(UnsuitableEndpointError) as caught:
        router(lacking(how, everywhere=True), strategy=strategy).run("q")
    assert caught.value.probe == "P2 logprobs"
    assert caught.value.partial.answer == ""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("none", "no top-k log-probabilities (20 were asked for)"),
        ("the written token alone, as if sure", "1 of 20 requested log-probabilities"),
        ("probabilities", "figures that are no log-probabilities"),
    ],
)
def test_the_error_says_what_came(how, words):
    with pytest.raises(UnsuitableEndpointError) as caught:
        router(lacking(how, everywhere=True)).run("q")
    assert words in str(caught.value) and "large model only" in str(caught.value)


def test_the_large_model_may_take_over():
    result = router(lacking("none", everywhere=True), on_backend_error="large").run("q")
    assert result.answer == ANSWER and len(result.trace.errors) == 1


class Coin(Backend):
    """Two tokens and an end: a vocabulary smaller than any usual k."""

    name = "coin"

    async def capabilities(self) -> Capabilities:
        return Capabilities(top_logprobs=3, streamed_logprobs=True)

    async def render(self, messages: object, tools: object = ()) -> Rendered:
        return Rendered("q", tokens=1)

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        report.prompt_tokens, report.completion_tokens = 1, 0
        behind = request.prompt.removeprefix("q")
        chain = ["heads", "\n\n", "tails", ""]
        done = next(n for n in range(5) if "".join(chain[:n]) == behind)
        for text in chain[done:][: request.max_tokens]:
            report.completion_tokens += 1
            yield Token(text, (math.log(0.5), math.log(0.5), -INF) if request.logprobs else None)
            if not text:
                report.ended = "eos"
                return
        report.ended = "length"


def test_a_vocabulary_smaller_than_k_is_all_there_is():
    result = router(Coin(), Coin(), threshold=0.5, think_tags=False).run("q")
    assert result.trace.steps[0].entropy == pytest.approx(math.log(2))
    assert result.trace.steps[0].author == "large"


def test_one_log_probability_has_no_entropy():
    small = model(top_logprobs=1)
    with pytest.raises(ConfigError, match=r"1 log-probability.*'topk_renorm'.*top_logprobs=20"):
        router(small).run("q")
    assert small.requests == []
    assert router(small, threshold=float("inf")).run("q").answer == ANSWER
    assert router(small, entropy_estimator="topk_other").run("q").answer == ANSWER


class TestMeasurable:
    @pytest.mark.parametrize("how", LACKING)
    def test_not(self, how):
        assert not measurable(LACKING[how](uniform(1.0)), 20)

    @pytest.mark.parametrize(
        "logprobs",
        [
            (0.0, *[-INF] * 19),  # sure, and says so of every other token
            (0.0, *[-9999.0] * 19),
            (3e-7, *[-20.0] * 19),  # rounding
            (math.log(1 / 20),) * 20,
            (*uniform(2.0), -30.0),  # the sampled token beside them
        ],
    )
    def test_is(self, logprobs):
        assert measurable(logprobs, 20)

    @given(st.floats(0, math.log(20)))
    def test_scripts_show_all_k(self, entropy):
        found = uniform(entropy)
        assert len(found) == 20 and measurable(found, 20)
        assert estimate(found, "topk_renorm") == pytest.approx(entropy, abs=1e-6)
