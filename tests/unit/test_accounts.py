"""When routing should not happen at all: the account of what calls take, and what follows."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import OPENED, model, script, steps

from glimp_integrations import GlimpRouter, OutputSpec, RoutedAnswer, RoutingCostWarning
from glimp_integrations.backends.base import Capabilities, Rendered, Report, Request, Token
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.accounts import Accounts, Outcome, Plan
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

KIND = "text, prompts up to 1000 characters #abcd"


# -- worlds, simulated -------------------------------------------------------------------------


@dataclass
class Called:
    """One call of a simulated world, in seconds."""

    plan: Plan
    took: float
    alone: float
    routed: float


def world(
    ratio: float | Callable[[int], float],
    *,
    calls: int = 100,
    noise: float = 0.0,
    seed: int = 0,
    seconds: float = 3.0,
    prices: bool = False,
    large_share: float = 0.3,
    accounts: Accounts | None = None,
) -> list[Called]:
    """Calls of one kind, of which routed ones take ``ratio`` times the large model alone.

    A call takes about ``seconds``: a third of it for reading, the rest for 100 tokens, more or
    less. ``noise`` is the standard deviation of the logarithm of what is measured.
    """
    rng = random.Random(seed)
    accounts = accounts or Accounts()
    made = []
    for number in range(calls):
        factor = ratio(number) if callable(ratio) else ratio
        tokens, prompt = rng.randint(60, 140), rng.randint(800, 1200)
        token = seconds * 2 / 3 / 100
        alone = prompt / 1000 * seconds / 3 + tokens * token
        breath = rng.lognormvariate(0, noise)
        plan = accounts.plan(KIND)
        took = alone * breath * (factor if plan.route == "routed" else 1.0)
        large_tokens = int(tokens * (large_share if plan.route == "routed" else 1.0))
        outcome = Outcome(
            plan.route,
            took,
            tokens,
            prompt,
            (large_tokens * token * breath, large_tokens),
            factor * tokens if prices else None,
            float(tokens) if prices else None,
            large_share,
        )
        accounts.record(KIND, outcome)
        made.append(Called(plan, took, alone, factor * alone))
    return made


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def regret(calls: list[Called]) -> float:
    """Time lost against who knows beforehand which way is faster, as a share."""
    return sum(c.took for c in calls) / sum(min(c.alone, c.routed) for c in calls) - 1


def over_alone(calls: list[Called]) -> float:
    return sum(call.took for call in calls) / sum(call.alone for call in calls)


def alone(calls: list[Called]) -> int:
    return sum(call.plan.route == "large_alone" for call in calls)


SEEDS = range(10)


class TestWhereRoutingPays:
    @pytest.mark.parametrize(("noise", "most"), [(0.0, 0.02), (0.1, 0.03), (0.3, 0.1)])
    def test_little_time_is_lost_to_trials(self, noise: float, most: float) -> None:
        worlds = [world(0.7, noise=noise, seed=seed) for seed in SEEDS]
        # Noise itself is no loss of the account's: without it, trials alone cost.
        assert mean([regret(calls) for calls in worlds]) <= most
        assert mean([alone(calls) for calls in worlds]) <= 6

    def test_nothing_is_tried_where_prices_tell(self) -> None:
        assert alone(world(0.7, prices=True)) == 0

    def test_nobody_is_warned(self) -> None:
        assert not any(call.plan.warning for call in world(0.7, noise=0.1))


class TestWhereRoutingLoses:
    @pytest.mark.parametrize("ratio", [1.15, 1.3, 2.0])
    @pytest.mark.parametrize(("noise", "most"), [(0.0, 1.05), (0.1, 1.06)])
    def test_after_ten_calls_it_costs_little(self, ratio: float, noise: float, most: float) -> None:
        worlds = [world(ratio, noise=noise, seed=seed)[10:] for seed in SEEDS]
        assert mean([over_alone(calls) for calls in worlds]) <= most
        assert all(alone(calls) >= 70 for calls in worlds)

    def test_prices_tell_after_four_calls(self) -> None:
        calls = world(1.3, prices=True)
        assert alone(calls[:4]) == 0 and alone(calls[4:19]) == 15
        assert "times the large model's money in 4 calls" in calls[4].plan.reason

    def test_trials_become_rare(self) -> None:
        calls = world(1.3, calls=400)
        tried = [n for n, call in enumerate(calls) if n > 5 and call.plan.route == "routed"]
        assert all(
            call.plan.reason == "to see whether routing pays by now"
            for call in (calls[n] for n in tried)
        )
        gaps = [later - sooner for sooner, later in itertools.pairwise(tried)]
        assert gaps == [32, 64, 128, 128][: len(gaps)] and len(gaps) >= 3

    @pytest.mark.parametrize(
        ("share", "cause"),
        [
            (0.95, "the large model writes 95% of the steps, and what the small one begins is "),
            (0.2, "both models have to read the prompt, or the small one is not much faster than "),
        ],
    )
    def test_users_are_told_once_and_why(self, share: float, cause: str) -> None:
        accounts = Accounts()
        calls = world(1.3, accounts=accounts, large_share=share)
        calls += world(1.3, accounts=accounts, large_share=share, seed=1)
        (warning,) = [call.plan.warning for call in calls if call.plan.warning]
        assert warning.startswith(
            "routing costs more than the large model alone here (text, prompts up to 1000 "
            "characters): routing took 1.30 times the large model's time in 4 calls, because "
        )
        assert cause in warning and warning.endswith("route='always' routes them all the same")


def kinds(seed: int, hard: float, *ratios: float) -> Callable[[int], float]:
    """Calls that differ: so many of them are hard, where routing takes the second ratio."""
    rng = random.Random(seed)
    drawn = [ratios[rng.random() < hard] for _ in range(100)]
    return lambda number: drawn[number]


class TestWhereCallsDiffer:
    """One call says little about the next, and the first few may all be of one sort."""

    @pytest.mark.parametrize("noise", [0.0, 0.1])
    def test_where_routing_pays_on_the_whole_it_goes_on(self, noise: float) -> None:
        worlds = [
            world(kinds(seed, 0.4, 0.45, 1.25), noise=noise, seed=seed)[10:] for seed in range(50)
        ]
        took = [over_alone(calls) for calls in worlds]
        routed = [sum(c.routed for c in calls) / sum(c.alone for c in calls) for calls in worlds]
        assert mean(took) <= mean(routed) + 0.03
        assert mean([alone(calls) / len(calls) for calls in worlds]) <= 0.1

    def test_a_bad_start_is_no_verdict(self) -> None:
        for hard in itertools.combinations(range(5), 3):
            calls = world(lambda n, hard=hard: 1.3 if n in hard else 0.5, noise=0.05)
            assert alone(calls[20:]) <= 4, hard

    def test_where_routing_loses_on_the_whole_it_is_left(self) -> None:
        worlds = [
            world(kinds(seed, 0.4, 0.9, 1.5), noise=0.1, seed=seed)[10:] for seed in range(50)
        ]
        assert mean([over_alone(calls) for calls in worlds]) <= 1.05


class TestWhereItChanges:
    def test_routing_is_taken_up_again(self) -> None:
        calls = world(lambda number: 2.0 if number < 30 else 0.6, calls=200)
        assert alone(calls[5:30]) >= 23
        assert alone(calls[100:]) <= 3
        trials = [call for call in calls[30:] if call.plan.reason.startswith("to see whether")]
        assert len(trials) == 3, "three that it wins are enough, and no trial waits for the next"
        after = calls.index(trials[-1]) + 1
        assert alone(calls[after : after + 15]) == 0, "what was long ago is no reason any more"

    def test_routing_is_left(self) -> None:
        calls = world(lambda number: 0.6 if number < 30 else 2.0)
        assert alone(calls[45:]) >= 50

    def test_it_does_not_change_at_every_breath(self) -> None:
        for seed in SEEDS:
            routes = [call.plan.route for call in world(1.3, noise=0.2, seed=seed)][20:]
            changes = sum(a != b for a, b in itertools.pairwise(routes))
            assert changes <= 10


class TestAccounts:
    def test_calls_that_take_no_time_are_not_compared(self, request: pytest.FixtureRequest) -> None:
        if request.config.getoption("--compare-at-once"):
            pytest.skip("with this option they are")
        accounts = Accounts()
        assert alone(world(3.0, calls=50, seconds=0.005, accounts=accounts)) == 0
        assert accounts.ratio(KIND) is None

    def test_kinds_are_kept_apart(self) -> None:
        accounts = Accounts()
        world(1.3, accounts=accounts)
        assert accounts.plan(KIND).route == "large_alone"
        assert accounts.plan("JSON") == Plan("routed", "not enough calls of this kind to compare")
        assert accounts.ratio("JSON") is None is accounts.ratio("nobody's")

    @pytest.mark.parametrize("ratio", [0.7, 1.3])
    def test_the_ratio_is_found(self, ratio: float) -> None:
        accounts = Accounts()
        world(ratio, accounts=accounts, calls=20)
        assert accounts.ratio(KIND) == pytest.approx(ratio, rel=0.1)

    def test_many_threads_at_once(self) -> None:
        accounts, failures = Accounts(), []
        plans: list[Plan] = []

        def work(seed: int) -> None:
            try:
                plans.extend(
                    call.plan
                    for call in world(1.5, calls=60, seed=seed, noise=0.1, accounts=accounts)
                )
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(plans) == 480
        assert sum(plan.route == "large_alone" for plan in plans) > 400
        assert sum(bool(plan.warning) for plan in plans) == 1


# -- calls -------------------------------------------------------------------------------------

HARD = script(
    ("Think", 2.0), " a", ".\n\n", ("Then", 2.0), " b", ".\n\n", "</think>", "\n\n", "4", ""
)


class Clock:
    """In place of the module ``time``, so that no load of the machine decides what pays."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


class Counting(ScriptedBackend):
    """Counts everything that it is asked for; only what it writes takes its time."""

    asked = 0
    token_seconds = 0.0

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        async with aclosing(super().generate(request, report)) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                CLOCK.now += self.token_seconds
                yield token

    async def capabilities(self) -> Capabilities:
        self.asked += 1
        return await super().capabilities()

    async def render(self, *arguments: Any) -> Rendered:
        self.asked += 1
        return await super().render(*arguments)

    @property
    def touched(self) -> int:
        return self.asked + len(self.requests)


def losing(*, make: Any = GlimpRouter, **options: Any) -> Any:
    """Two models of which the small one is slow, and all of whose steps are thrown away."""
    small = Counting(HARD, name="S", generation_prompt=OPENED)
    large = Counting(HARD, name="L", generation_prompt=OPENED, failures=1)
    small.token_seconds, large.token_seconds = 2.0, 0.2
    options = {"temperature": 0.0, "strategy": "two_request", "route": "when_it_pays", **options}
    return make(small=small, large=large, **options)


def called(one: Any, times: int) -> list[Any]:
    """The results of so many calls; the user is warned in one of them."""
    with pytest.warns(RoutingCostWarning):
        return [one.run("q") for _ in range(times)]


async def drained(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


def streamed(one: GlimpRouter) -> tuple[str, RoutedAnswer]:
    *events, last = one.stream("q")
    return "".join(getattr(event, "text", "") for event in events), last.result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls take what their models say."""
    for module in ("prepare", "recorder"):
        monkeypatch.setattr(f"glimp_integrations.runtime.{module}.time", CLOCK)


@pytest.mark.usefixtures("clock")
class TestRouter:
    def test_leaves_the_small_model_alone(self) -> None:
        one = losing()
        results = [one.run("q") for _ in range(2)]
        assert [result.trace.route for result in results] == ["routed", "routed"]
        assert results[0].trace.route_reason == "not enough calls of this kind to compare"
        learning = one.run("q")
        assert learning.trace.route == "large_alone"
        assert learning.trace.strategy_reason == "the large model writes alone"
        assert [one.run("q").trace.route for _ in range(3)] == ["routed", "large_alone", "routed"]
        touched = one.small.touched
        assert touched > 0
        assert learning.trace.route_reason.startswith("to learn what the large model alone takes")
        with pytest.warns(RoutingCostWarning, match="routing costs more than the large") as told:
            result = one.run("q")
        assert len(told) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = one.run("q")
        assert one.small.touched == touched, "nothing was asked of it: no template, no prompt"
        for answer in (learning, result, again):
            assert (answer.reasoning, answer.answer) == (results[0].reasoning, "4")
            assert answer.usage.small.requests == 0
            assert answer.usage.large.requests == 2, "the thinking, and the answer"
        assert again.trace.route == "large_alone"
        assert "times the large model's time in 4 calls" in again.trace.route_reason
        assert steps(again, "author", "entropy", "policy")[0] == ("large", None, None)
        assert again.trace.errors == []

    def test_streams_the_same(self) -> None:
        one = losing()
        with pytest.warns(RoutingCostWarning):
            answers = [streamed(one) for _ in range(9)]
        assert {text for text, _ in answers} == {"Think a.\n\nThen b.\n\n4"}
        assert [result.trace.route for _, result in answers[6:]] == ["large_alone"] * 3

    @pytest.mark.parametrize(
        ("make", "ask"),
        [
            (GlimpRouter, lambda one: one.run("q")),
            (GlimpRouter, lambda one: asyncio.run(one.arun("q"))),
            (GlimpRouter, lambda one: [*one.stream("q")]),
            (GlimpRouter, lambda one: asyncio.run(drained(one.astream("q")))),
            (ChatGlimpRouter, lambda one: one.invoke("q")),
            (ChatGlimpRouter, lambda one: [*one.stream("q")]),
            (ChatGlimpRouter, lambda one: asyncio.run(one.ainvoke("q"))),
            (GlimpRouterLLM, lambda one: one.complete("q")),
            (GlimpRouterLLM, lambda one: [*one.stream_complete("q")]),
        ],
        ids=itertools.count(),
    )
    def test_the_warning_names_the_users_line(self, make: Any, ask: Any) -> None:
        one = losing(make=make)
        with pytest.warns(RoutingCostWarning) as told:
            [ask(one) for _ in range(7)]
        lines = [(w.filename, w.lineno) for w in told if w.category is RoutingCostWarning]
        assert lines == [(__file__, ask.__code__.co_firstlineno)]

    def test_kinds_are_told_apart(self) -> None:
        one = losing()
        called(one, 7)
        assert one.run("q").trace.route == "large_alone"
        assert one.run("q" * 2000).trace.route == "routed"
        assert one.run("q", threshold=1.5).trace.route == "routed"
        schema = {"type": "object", "properties": {}}
        assert one.run("q", OutputSpec(schema=schema)).trace.route == "routed"

    def test_some_calls_are_always_routed(self) -> None:
        prices = {"small": {"input": 1, "output": 1}, "large": {"input": 2, "output": 2}}
        for options in (
            {"route": "always"},
            {"answer_by": "small"},
            {"random_share": 0.5},
            {"max_large_tokens": 1000},
            {"max_cost": 10.0, "prices": prices},
            {"threshold": -1.0},
        ):
            one = losing(**options)
            for _ in range(2):
                assert one.run("q").trace.route == "routed", options
            assert one.accounts._accounts == {}, "nobody keeps account of it"

    def test_adapters_say_it(self) -> None:
        llm = losing(make=ChatGlimpRouter)
        called(llm.router, 7)
        message = llm.bind(max_tokens=100).invoke("q")
        assert message.response_metadata["glimprouter"]["route"] == "large_alone"
        assert "times the large" in message.response_metadata["glimprouter"]["route_reason"]

    def test_where_the_large_model_fails_the_small_one_may_go_on(self) -> None:
        one = losing(on_backend_error="small", max_retries=0)
        assert called(one, 7)[-1].trace.route == "large_alone"
        one.large._fail_after = one.large._generated + 2
        failed = one.run("q")
        assert len(failed.trace.errors) == 1
        assert failed.trace.route == "large_alone"
        assert failed.answer == "4"
        assert {"small", "large"} == {step.author for step in failed.trace.steps}

    def test_a_failure_is_raised_otherwise(self) -> None:
        one = losing(max_retries=0)
        called(one, 7)
        one.large._fail_after = one.large._generated + 2
        with pytest.raises(BackendError, match="large model: the script says: fail") as raised:
            one.run("q")
        assert raised.value.partial.trace.route == "large_alone"
        assert one.run("q").answer == "4"

    def test_prices_decide_without_trials(self) -> None:
        prices = {"small": {"input": 10, "output": 10}, "large": {"input": 1, "output": 1}}
        one = losing(prices=prices)
        with pytest.warns(RoutingCostWarning, match="the large model's money"):
            results = [one.run("q") for _ in range(6)]
        assert [r.trace.route for r in results] == ["routed"] * 4 + ["large_alone"] * 2
        assert results[-1].trace.cost < results[0].trace.cost

    def test_a_mistake_of_the_caller_is_not_counted(self) -> None:
        one = losing()
        with pytest.raises(ConfigError):
            one.run("q", strategy="in_process")
        assert one.run("q").trace.route_reason == "not enough calls of this kind to compare"


def test_by_default_calls_are_routed_where_it_pays() -> None:
    assert GlimpRouter(model(), model()).settings.route == "when_it_pays"
