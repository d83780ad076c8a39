"""The policies of examples/policies: what they decide, alone and inside a router."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from helpers import CHAIN, model, router, script, steps

from examples.policies.first_tokens import FirstTokens
from examples.policies.margin import Margin
from examples.policies.trigreason import TrigReason
from glimp_integrations import ConfigError, Trace
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.method.policy import Glimpse, Glimpsed, StepStart, Write
from glimp_integrations.method.steps import SURE, Step
from glimp_integrations.method.tokens import Token


def seen(*entropies: float, probabilities: tuple[float, ...] | None = None) -> StepStart:
    return StepStart(1, glimpse=Glimpsed(entropies, probabilities))


def written(author: str, text: str = "So.", sure: int | None = 0) -> Step:
    """A step of ten tokens, so many of them sure."""
    step = Step(0, author, None, is_answer=False, text=text, tokens=10)
    return step if sure is None else replace(step, measured=10, sure=sure)


def author(policy, *before: Step) -> str:
    decision = policy.decide(StepStart(len(before), steps=before))
    assert isinstance(decision, Write) and decision.reason
    return decision.author


class TestMargin:
    def test_asks_for_probabilities(self):
        assert Margin().decide(StepStart(0)) == Glimpse(probabilities=True)

    @pytest.mark.parametrize(
        ("probabilities", "who"),
        [
            ((0.5, 0.4, 0.1), "large"),
            ((0.75, 0.25), "small"),
            ((0.8, 0.1), "small"),
            ((1.0,), "small"),
        ],
    )
    def test_large_where_two_tokens_are_close(self, probabilities, who):
        assert Margin(0.4).decide(seen(0.5, probabilities=probabilities)).author == who

    def test_says_what_decided(self):
        decision = Margin(0.3).decide(seen(0.5, probabilities=(0.5, 0.25, 0.1)))
        assert (decision.signal, decision.bound) == (0.25, 0.3)
        assert decision.reason == "margin 0.25 < 0.3"

    def test_in_a_router(self):
        result = router(policy=Margin(0.7)).run("?")
        found = steps(result, "author", "policy", "bound", "threshold")
        assert found[:3] == [
            ("small", "margin", 0.7, None),
            ("large", "margin", 0.7, None),
            ("small", "margin", 0.7, None),
        ]
        assert result.trace.steps[1].signal < 0.7 < result.trace.steps[0].signal
        assert result.trace.large_step_share == pytest.approx(1 / 3)
        assert Trace.from_json(result.trace.to_json()) == result.trace


class TestFirstTokens:
    def test_asks_for_four(self):
        assert FirstTokens().decide(StepStart(0)) == Glimpse(tokens=4)

    @pytest.mark.parametrize(
        ("entropies", "who"),
        [((0, 0, 0, 4.1), "large"), ((0, 4.0, 0, 0), "small"), ((1.1,), "large")],
    )
    def test_goes_by_the_mean(self, entropies, who):
        assert FirstTokens(1.0).decide(seen(*entropies)).author == who

    @pytest.mark.parametrize("strategy", ["two_request", "fused"])
    def test_in_a_router(self, strategy):
        chain = script(*[(f"{n} ", 1.0) for n in range(5)], "\n\n", ("x", 2.0), "y", "z", ".", "")
        result = router(model(chain), model(chain), policy=FirstTokens(0.9), strategy=strategy).run(
            "?"
        )
        assert [s.author for s in result.trace.steps[:2]] == ["large", "small"]
        assert [s.signal for s in result.trace.steps[:2]] == pytest.approx([1.0, 0.5], abs=0.01)
        assert [s.text for s in result.trace.steps[:2]] == ["0 1 2 3 4 \n\n", "xyz."]


class TestTrigReason:
    def test_the_first_steps_are_the_large_models(self):
        policy = TrigReason(priming=2)
        assert author(policy) == author(policy, written("large")) == "large"
        assert author(policy, written("large"), written("large")) == "small"

    def test_after_an_over_confident_small_step_the_large_model_writes(self):
        policy = TrigReason(sure=0.8)
        assert author(policy, written("small", sure=9)) == "large"
        assert author(policy, written("small", sure=8)) == "small"
        assert author(policy, written("small", sure=9), written("large", sure=None)) == "small"

    def test_after_steps_in_doubt_the_large_model_writes(self):
        policy = TrigReason(hesitant=2)
        wait, but = written("small", "Wait, no."), written("small", "But… why?")
        assert author(policy, wait) == "small"
        assert author(policy, wait, but) == "large"
        assert author(policy, wait, written("small", "Butter melts."), but) == "small"
        assert author(policy, wait, written("large", "Hmm.", sure=None), but) == "small"

    def test_without_probabilities_it_says_so(self):
        with pytest.raises(ValueError, match="strategy='fused'"):
            author(TrigReason(), written("small", sure=None))

    def test_in_a_router(self):
        doubt = [t for n in range(3) for t in script("Wait", (f" {n}", 2.0), ".", "\n\n")]
        chain = [*script("Begin.", "\n\n"), *doubt, *script("Done", (".", 2.0), "")]
        pair = model(chain), model(chain)
        result = router(*pair, policy=TrigReason(sure=0.8, hesitant=2), strategy="fused").run("?")
        assert [s.reason.split(":")[0] for s in result.trace.steps[:-1]] == [
            "priming",
            "no trigger",
            "no trigger",
            "2 hesitant steps",
            "no trigger",
        ]
        assert result.trace.large_step_share == 2 / 5
        sure = router(*pair, policy=TrigReason(sure=0.7), strategy="fused").run("?")
        assert sure.trace.steps[2].reason == "over-confident: 0.75 sure"

    def test_two_requests_for_a_step_are_refused_with_a_remedy(self):
        with pytest.raises(
            ConfigError, match=r"policy trigreason: .*use strategy='fused'"
        ) as caught:
            router(policy=TrigReason(), strategy="two_request").run("?")
        assert caught.value.partial.trace.steps


class _Whole(ScriptedBackend):
    """Shows the whole distribution instead of the likeliest tokens, as models in this process."""

    shows = True

    async def generate(self, request, report):
        async for token in super().generate(request, report):
            logprobs = token.logprobs
            if logprobs is None:
                yield token
                continue

            async def entropy(estimator, k, found=logprobs):
                return -math.fsum(math.exp(p) * p for p in found)

            async def likeliest(k, found=logprobs):
                return found[:k]

            yield replace(
                token,
                logprobs=None,
                entropy_fn=entropy,
                logprobs_fn=likeliest if self.shows else None,
                sure=logprobs[0] > SURE,
            )


class TestModelsInThisProcess:
    def whole(self) -> _Whole:
        return _Whole(CHAIN, generation_prompt="<assistant>\n<think>\n", name="S")

    def test_margin_is_that_of_the_same_model_with_log_probabilities(self):
        shown = router(policy=Margin(0.7)).run("?").trace
        whole = router(self.whole(), policy=Margin(0.7)).run("?").trace
        assert [s.signal for s in whole.steps] == [s.signal for s in shown.steps]
        assert [s.author for s in whole.steps] == [s.author for s in shown.steps]

    def test_a_policy_that_asks_for_what_the_model_cannot_show_is_told_so(self):
        small = self.whole()
        small.shows = False
        with pytest.raises(ConfigError, match=r"asks for probabilities .*shows the entropy only"):
            router(small, policy=Margin(0.7)).run("?")

    def test_probabilities_are_there_for_those_who_ask(self):
        class Looks:
            found: list = []  # noqa: RUF012

            def decide(self, start):
                if start.glimpse is None:
                    return Glimpse()
                self.found.append(start.glimpse.probabilities)
                return Write("small")

        router(policy=Looks()).run("?")
        assert set(Looks.found) == {None}

    def test_how_sure_a_step_was_comes_from_either(self):
        step = replace(written("small", sure=None), tokens=4)
        for token in (
            Token("a", sure=True),
            Token("b"),
            Token("c", (SURE - 0.1, -3.0)),
            Token("d", (0.0,)),
        ):
            step.measure(token)
        assert (step.measured, step.sure, step.sure_share) == (3, 2, pytest.approx(2 / 3))

    def test_one_token_does_not_speak_for_a_step(self):
        # After a glimpse that was a request of its own, the rest comes without log-probabilities.
        step = written("small", sure=None)
        step.measure(Token("a", sure=True))
        assert (step.tokens, step.measured, step.sure_share) == (10, 1, None)
