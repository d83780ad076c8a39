"""Who decides about a step: the rule, the paper's threshold, the random one, and anybody's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from examples.snippets import snippets
from helpers import ANSWER, CHAIN, REASONING, model, router, script, shown, steps
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations import Finished, Trace, Write
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.large_share import LargeShare
from glimp_integrations.method.policy import Done, Glimpse, Glimpsed, RoutingPolicy, StepStart
from glimp_integrations.method.rule import RandomBaseline, Rule, Threshold, name_of

STRATEGIES = ["two_request", "fused", "overlap"]
FIRST = StepStart(0, "first")
SEEN = replace(FIRST, glimpse=Glimpsed((1.5, 0.2), (0.5, 0.3)))


@dataclass
class Says:
    """A policy that returns, or raises, what it is given, and remembers what it was asked."""

    answer: Any
    only_at: int | None = None
    asked: list[StepStart] = field(default_factory=list)

    name = "says"

    def decide(self, start: StepStart) -> Any:
        self.asked.append(start)
        if self.only_at is not None and start.index != self.only_at:
            return Write("small")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(start) if callable(self.answer) else self.answer


class TestThreshold:
    @given(st.floats(0, 12), st.floats(0, 12))
    def test_above_it_is_the_large_models(self, threshold: float, h: float) -> None:
        policy: RoutingPolicy = Threshold(threshold)
        assert policy.decide(FIRST) == Glimpse()
        decision = policy.decide(replace(FIRST, glimpse=Glimpsed((h,))))
        assert decision.author == ("large" if h > threshold else "small")
        assert (decision.signal, decision.bound) == (h, threshold)

    @pytest.mark.parametrize(
        ("threshold", "author"), [(math.inf, "small"), (-0.1, "large"), (-math.inf, "large")]
    )
    def test_extreme_ones_need_no_glimpse(self, threshold: float, author: str) -> None:
        decision = Threshold(threshold).decide(FIRST)
        assert decision == Write(author, f"threshold {threshold:g}", bound=threshold)

    def test_says_why_in_words(self) -> None:
        assert Threshold(1.0).decide(SEEN).reason == "H 1.50 > 1"
        assert Threshold(1.5).decide(SEEN).reason == "H 1.50 <= 1.5"


class TestRandomBaseline:
    @pytest.mark.parametrize(("number", "author"), [(0.1, "large"), (0.3, "small"), (0.9, "small")])
    def test_a_number_below_the_share_is_the_large_models(self, number: float, author: str) -> None:
        policy = RandomBaseline(0.3, lambda: number)
        assert policy.decide(FIRST) == Glimpse()
        decision = policy.decide(SEEN)
        assert (decision.author, decision.signal, decision.bound) == (author, number, 0.3)
        assert decision.reason.startswith(f"random {number:.2f} ")

    def test_takes_any_policys_place(self) -> None:
        policy = Says(Write("large"))
        result = router(policy=policy, random_share=0.0).run("q")
        assert policy.asked == []
        assert steps(result, "author", "policy")[:3] == [("small", "random")] * 3


class TestRule:
    """Which steps are a policy's to decide."""

    LARGE = Says(Write("large", "so it says"))
    SMALL = Says(Write("small", "so it says"))

    def author(self, start: StepStart, policy: Any = LARGE, **options: Any) -> tuple[str, str]:
        decision = Rule(policy, **options).action(start)
        assert isinstance(decision, Write)
        return decision.author, decision.reason

    def test_a_policy_decides_and_is_named(self) -> None:
        assert Rule(self.LARGE).action(FIRST) == Write("large", "so it says", policy="says")

    def test_nothing_is_left(self) -> None:
        assert Rule(self.LARGE).action(None) == Done()

    @pytest.mark.parametrize("author", ["small", "large"])
    def test_the_answer_has_its_author(self, author: str) -> None:
        start = replace(FIRST, is_answer=True)
        assert self.author(start, answer_by=author) == (author, f"answer_by={author!r}")
        assert self.author(start, self.SMALL, answer_by="router") == ("small", "so it says")

    def test_json_and_decisions_on_calls_are_the_large_models(self) -> None:
        start = replace(FIRST, is_answer=True, constrained=True)
        assert self.author(start, self.SMALL, answer_by="router")[0] == "large"
        assert self.author(replace(FIRST, decides_call=True), self.SMALL)[0] == "large"

    def test_the_first_steps_can_be_the_large_models(self) -> None:
        options = {"first_large_steps": 2}
        reason = "first_large_steps=2"
        assert self.author(FIRST, self.SMALL, **options) == ("large", reason)
        assert self.author(replace(FIRST, index=1), self.SMALL, **options) == ("large", reason)
        assert self.author(replace(FIRST, index=2), self.SMALL, **options)[0] == "small"

    def test_where_the_small_model_ended_its_text_it_goes_on(self) -> None:
        ended = replace(FIRST, glimpse=Glimpsed(()))
        assert self.author(ended) == ("small", "the small model ended its text")

    def test_one_model_is_left(self) -> None:
        start = replace(FIRST, only="small", only_reason="the other model failed")
        assert self.author(start) == ("small", "the other model failed")

    def test_a_call_can_be_the_large_models(self) -> None:
        assert self.author(FIRST, self.SMALL, alone="it is faster") == ("large", "it is faster")

    def test_a_policy_has_a_name(self) -> None:
        class Nameless:
            decide = None

        assert [name_of(policy) for policy in (Threshold(), Nameless())] == [
            "threshold",
            "Nameless",
        ]


NONSENSE = [
    (None, "decide() returned None"),
    ("large", "decide() returned 'large'"),
    (Write("both"), "Write(author='both'"),
    (Write, "decide() returned <class"),
    (Write("large", None), "Write(author='large', reason=None"),
    (Write("large", signal="high"), "signal='high'"),
    (Write(["large"]), "Write(author=['large']"),
    (Glimpse(0), "decide() returned Glimpse(tokens=0,"),
    (Glimpse(33), "decide() returned Glimpse(tokens=33,"),
    (Glimpse("x"), "decide() returned Glimpse(tokens='x',"),
    (Glimpse(True), "decide() returned Glimpse(tokens=True,"),
    (Glimpse(1.0), "decide() returned Glimpse(tokens=1.0,"),
    (ValueError("no idea"), "decide() raised ValueError at step 2: no idea"),
    (TimeoutError("slow"), "decide() raised TimeoutError at step 2: slow"),
    (ZeroDivisionError(), "decide() raised ZeroDivisionError at step 2"),
]


class TestMistakes:
    """Nonsense of a policy names it, the value and the step, and costs nothing that was written."""

    @pytest.mark.parametrize(("answer", "words"), NONSENSE, ids=[words for _, words in NONSENSE])
    def test_name_the_policy_the_value_and_the_step(self, answer: Any, words: str) -> None:
        given = (lambda start: Write) if answer is Write else answer
        events: list[Any] = []
        with pytest.raises(ConfigError) as raised:
            events += router(policy=Says(given, only_at=2)).stream("q")
        text = str(raised.value)
        assert text.startswith("policy says: decide() ") and words in text
        assert "at step 2" in text
        if "returned" in words:
            assert "it has to return Write('small') or Write('large'), with a text as" in text
            assert "or Glimpse() of 1 to 32 tokens" in text
        partial = raised.value.partial
        assert partial is not None
        assert partial.reasoning == "Let me think\n\n2 + 2 = 4.\n\n"
        assert [step.author for step in partial.trace.steps] == ["small", "small"]

    def test_one_glimpse_a_step(self) -> None:
        with pytest.raises(ConfigError, match="before the step's glimpse was made, which it was"):
            router(policy=Says(Glimpse(2))).run("q")

    def test_at_the_first_step_nothing_is_written_yet(self) -> None:
        with pytest.raises(ConfigError, match="at step 0") as raised:
            router(policy=Says(None)).run("q")
        assert raised.value.partial is None

    def test_a_router_goes_on_after_them(self) -> None:
        one = router(policy=Says(None))
        with pytest.raises(ConfigError):
            one.run("q")
        assert one.run("q", threshold=1.0).answer == ANSWER

    @pytest.mark.parametrize(
        ("policy", "words"),
        [
            (Threshold, r"policy: .*give an object, Threshold\(\.\.\.\), not the class"),
            (0.5, r"policy: .*an object with a method decide\(start\) \(got 0\.5\)"),
            ("threshold", r"policy: .*an object with a method decide\(start\)"),
        ],
    )
    def test_a_policy_is_an_object(self, policy: Any, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            router(policy=policy)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"threshold": 1.0, "large_share": 0.25}, "threshold=1.0 and large_share=0.25: each"),
            ({"threshold": 1.0, "policy": Threshold()}, "threshold=1.0 and policy=threshold: each"),
            ({"large_share": 0.2, "policy": Says(0)}, "large_share=0.2 and policy=says: each"),
            ({"large_share": 0.0}, "large_share: .*greater than 0 .got 0.0."),
            ({"large_share": 1.0}, "large_share: .*less than 1 .got 1.0."),
            ({"large_share": math.nan}, "large_share: .*got nan"),
            ({"first_large_steps": -1}, "first_large_steps: .*got -1"),
            ({"route": "never"}, "route: .*got 'never'"),
        ],
    )
    def test_one_thing_decides(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            router(**options)

    def test_what_decides_in_one_call_replaces_what_decided(self) -> None:
        one = router(large_share=0.25)
        assert steps(one.run("q", threshold=0.0), "policy")[0] == ("threshold",)
        assert steps(one.run("q", policy=Says(Write("small"))), "policy")[0] == ("says",)
        assert steps(one.run("q"), "policy")[0] == ("large_share",)


WIDE = script(
    *(("Let", 0.1), (" me", 0.2), (" think", 0.3), (" now", 0.4), ".\n\n"),
    *(("So", 2.0), (" 4", 0.5), ".\n\n"),
    *(("Done", 0.6), ".", "\n", "</think>", "\n\n", "The answer is 4.", ""),
)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestGlimpses:
    """A policy may look at several tokens, and at the probabilities of the first."""

    def run(self, strategy: str, policy: Any, **options: Any) -> Any:
        small, large = model(WIDE, name="S"), model(WIDE, name="L")
        return router(small, large, strategy=strategy, policy=policy, **options).run("q")

    def test_of_four_tokens(self, strategy: str) -> None:
        policy = Says(lambda start: Glimpse(4) if start.glimpse is None else Write("small"))
        result = self.run(strategy, policy)
        glimpses = [start.glimpse for start in policy.asked if start.glimpse]
        assert [len(glimpse.entropies) for glimpse in glimpses] == [4, 4, 4]
        assert glimpses[0].entropies == pytest.approx((0.1, 0.2, 0.3, 0.4), abs=1e-6)
        plain = self.run(strategy, Threshold(math.inf))
        assert (result.reasoning, result.answer) == (plain.reasoning, plain.answer)
        assert steps(result, "text", "author", "tokens") == steps(plain, "text", "author", "tokens")

    def test_and_the_large_model_writes(self, strategy: str) -> None:
        policy = Says(lambda start: Glimpse(4) if start.glimpse is None else Write("large"))
        result = self.run(strategy, policy)
        plain = self.run(strategy, Threshold(-1.0))
        assert (result.reasoning, result.answer) == (plain.reasoning, plain.answer)
        assert all(step.author == "large" for step in result.trace.steps)
        assert result.trace.discarded_tokens >= 12

    def test_decide_by_their_mean(self, strategy: str) -> None:
        def mean(start: StepStart) -> Glimpse | Write:
            if start.glimpse is None:
                return Glimpse(2)
            value = sum(start.glimpse.entropies) / len(start.glimpse.entropies)
            return Write("large" if value > 1 else "small", f"mean {value:.2f}", value, 1.0)

        result = self.run(strategy, Says(mean))
        assert steps(result, "author", "reason", "policy")[:2] == [
            ("small", "mean 0.15", "says"),
            ("large", "mean 1.25", "says"),
        ]
        second = result.trace.steps[1]
        assert second.entropy == pytest.approx(2.0, abs=1e-6)
        assert second.signal == pytest.approx(1.25, abs=1e-6)
        assert (second.bound, second.threshold) == (1.0, None)

    def test_show_probabilities(self, strategy: str) -> None:
        look = Glimpse(probabilities=True)
        policy = Says(lambda start: look if start.glimpse is None else Write("small"))
        self.run(strategy, policy)
        probabilities = [start.glimpse.probabilities for start in policy.asked if start.glimpse]
        for values in probabilities:
            assert len(values) == 20 and sum(values) == pytest.approx(1.0)
            assert list(values) == sorted(values, reverse=True)
        first = probabilities[0]
        assert -sum(p * math.log(p) for p in first if p) == pytest.approx(0.1, abs=1e-6)

    def test_end_where_the_model_ends(self, strategy: str) -> None:
        short = script(("So", 0.4), ("", 0.7))
        policy = Says(lambda start: Glimpse(8) if start.glimpse is None else Write("small"))
        result = router(
            model(short, name="S"), model(short, name="L"), strategy=strategy, policy=policy
        ).run("q")
        assert policy.asked[1].glimpse.entropies[0] == pytest.approx(0.4, abs=1e-6)
        assert result.reasoning == "So"

    def test_no_glimpse_costs_no_request(self, strategy: str) -> None:
        small = model(name="S")
        result = router(small, strategy=strategy, policy=Says(Write("large", "always"))).run("q")
        assert small.requests == []
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        assert steps(result, "entropy", "policy", "reason")[0] == (None, "says", "always")


class TestRecords:
    def test_say_who_decided_and_why(self) -> None:
        result = router().run("q")
        assert steps(result, "author", "policy", "signal", "bound", "reason", "place") == [
            ("small", "threshold", pytest.approx(0.2, abs=1e-6), 1.0, "H 0.20 <= 1", "first"),
            ("large", "threshold", pytest.approx(2.0, abs=1e-6), 1.0, "H 2.00 > 1", "later"),
            ("small", "threshold", pytest.approx(0.3, abs=1e-6), 1.0, "H 0.30 <= 1", "later"),
            ("large", None, None, None, "answer_by='large'", "answer"),
        ]

    def test_first_large_steps(self) -> None:
        result = router(first_large_steps=1).run("q")
        assert steps(result, "author", "policy", "reason", "entropy")[0] == (
            *("large", None, "first_large_steps=1", None),
        )
        assert result.answer == ANSWER

    def test_after_a_tools_result(self) -> None:
        function = {"name": "f", "arguments": "{}"}
        call = {"id": "1", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ]
        result = router(policy=Says(Write("small"))).run(messages)
        assert steps(result, "place")[:2] == [("after_tool",), ("later",)]

    def test_infinite_numbers_are_text_in_json(self) -> None:
        trace = router(threshold=math.inf).run("q").trace
        assert trace.steps[0].bound == "inf"
        assert Trace.from_json(trace.to_json()) == trace

    def test_a_policy_sees_the_steps_before(self) -> None:
        policy = Says(lambda start: Glimpse() if start.glimpse is None else Write("small"))
        events = list(router(policy=policy).stream("q"))
        assert shown(events) == REASONING + ANSWER
        assert isinstance(events[-1], Finished)
        last = policy.asked[-1]
        assert [step.text for step in last.steps][:2] == ["Let me think\n\n", "2 + 2 = 4.\n\n"]
        # Of a stream with log-probabilities: "Let me think" at H = 0.2 is sure, as the rest is.
        assert [step.sure_share for step in last.steps][:2] == [1.0, pytest.approx(2 / 3)]
        assert [step.tokens for step in last.steps][:2] == [2, 3]

    def test_spent_grows(self) -> None:
        policy = Says(Write("large"))
        router(policy=policy).run("q")
        spent = [start.spent for start in policy.asked]
        assert [s.large_tokens for s in spent] == sorted(s.large_tokens for s in spent)
        assert spent[0].large_tokens == 0 < spent[-1].large_tokens
        assert all(s.seconds > 0 and s.cost is None for s in spent)


class TestLearning:
    """A policy with a method ``learn`` is told what a call showed."""

    def test_at_the_end_of_a_call(self) -> None:
        class Learner(Says):
            def learn(self, steps: Any) -> None:
                self.told = [(step.author, step.place, step.entropy) for step in steps]

        policy = Learner(Write("small"))
        router(policy=policy).run("q")
        assert policy.told[0] == ("small", "first", None)
        assert [place for _, place, _ in policy.told] == ["first", "later", "later", "answer"]

    def test_that_fails_costs_no_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(Says):
            def learn(self) -> None:
                raise AssertionError

        small, large = model(name="S"), model(name="L")
        assert router(small, large, policy=Broken(Write("small"))).run("q").answer == ANSWER
        assert "policy says: learn() raised TypeError" in caplog.text

    def test_random_choices_teach_nothing(self) -> None:
        policy = LargeShare(0.25)
        router(policy=policy, random_share=0.5).run("q")
        assert policy.seen == {}


def replayed(trace: Trace, policy: RoutingPolicy) -> list[str]:
    """Who would write the steps of a trace that were the policy's to decide."""
    authors = []
    for record in trace.steps:
        if record.policy is None:
            continue
        start = StepStart(record.index, record.place, trace.steps[: record.index])
        decision = policy.decide(start)
        if isinstance(decision, Glimpse):
            decision = policy.decide(replace(start, glimpse=Glimpsed((record.entropy,))))
        assert (decision.signal, decision.bound) == (record.signal, record.bound)
        authors.append(decision.author)
    return authors


LONG = script(
    *(item for i in range(30) for item in ((f"Thought {i}", (i * 37 % 29) / 10), ".\n\n")),
    *("</think>", "4", ""),
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "make",
    [lambda: Threshold(1.0), lambda: LargeShare(0.25), lambda: LargeShare(0.5, {"later": [1.0]})],
)
def test_decisions_replay_from_a_trace(make: Callable[[], Any], strategy: str) -> None:
    small, large = model(LONG, name="S"), model(LONG, name="L")
    result = router(small, large, policy=make(), strategy=strategy).run("q")
    trace = Trace.from_json(result.trace.to_json())
    authors = [step.author for step in trace.steps if step.policy is not None]
    assert set(authors) == {"small", "large"}
    assert replayed(trace, make()) == authors


def test_strategies_do_not_change_what_a_policy_decides() -> None:
    results = [
        router(model(LONG, name="S"), model(LONG, name="L"), large_share=0.3, strategy=s).run("q")
        for s in STRATEGIES
    ]
    seen = [steps(result, "author", "entropy", "bound", "text") for result in results]
    assert seen[0] == seen[1] == seen[2]


class TestDocumented:
    """The blocks of docs/how-to/policies.md, with scripted models instead of the bundled ones."""

    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], Any]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("glimp_integrations.GlimpRouter", router, raising=False)
        space: dict[str, Any] = {"__name__": "snippet"}

        def run(number: int) -> dict[str, Any]:
            name = f"how-to/policies.md {number}"
            exec(compile(snippets()[name].code, name, "exec"), space)
            return space

        return run

    def test_share(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        run(1)
        assert "large  H 2.00 > " in capsys.readouterr().out
        later = run(2)["later"]
        assert later.policy_of().seen == run(2)["router"].policy_of().seen
        assert len(later.policy_of().seen["first"]) == 1

    def test_budgets(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(3)["result"].answer == ANSWER
        assert capsys.readouterr().out == "[]\n"

    def test_margin(self, run: Any) -> None:
        result = run(4)["router"].run("q")
        assert steps(result, "author", "policy")[:3] == [
            ("small", "margin"),
            ("large", "margin"),
            ("small", "margin"),
        ]
        assert steps(result, "bound", "threshold")[0] == (0.7, None)
        assert result.trace.steps[1].signal < 0.7 < result.trace.steps[0].signal

    def test_three_triggers(self, run: Any) -> None:
        small, large = model(LONG, name="S"), model(LONG, name="L")
        triggers = run(5)["Triggers"]()
        result = router(small, large, policy=triggers).run("q")
        reasons = {step.reason for step in result.trace.steps if step.author == "large"}
        assert {"the first steps", "the step before was too sure", "H 1.70, bound 1"} <= reasons
        assert result.reasoning == router(small, large).run("q").reasoning


def test_the_chain_of_the_helpers_is_what_these_tests_think() -> None:
    assert "".join(data.decode() for data, _ in CHAIN) == f"{REASONING}</think>\n\n{ANSWER}"
