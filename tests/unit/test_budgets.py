"""What a call may take: tokens of the large model, money, time; and what happens near the end."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import OPENED, result_of, shown, told
from hypothesis import given
from hypothesis import strategies as st
from scripts import HERMES, answer, demanded

from glimp_integrations import GlimpRouter, OutputSpec, RoutedAnswer
from glimp_integrations.backends.scripted import ScriptedBackend, ScriptedToken
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.budgets import NO_BUDGETS, Budgets
from glimp_integrations.method.policy import (
    NOTHING_SPENT,
    CloseThinking,
    Spent,
    StepStart,
    Stop,
    Write,
    WriteAlone,
)
from glimp_integrations.method.rule import Rule, Threshold
from glimp_integrations.trace.trace import finish_reason
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

STRATEGIES = ["two_request", "fused", "overlap"]
PRICES = {"small": {"input": 0, "output": 1}, "large": {"input": 0, "output": 10}}
"""A token of the small model costs a millionth, one of the large model ten."""
SHORT = 128 * 10e-6
"""What a short answer of the large model costs."""
JSON = OutputSpec(schema={"type": "object", "properties": {"a": {"type": "string"}}})
JSON_ANSWER = ['{"a": "', *["x"] * 60, '"}']
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


# -- the rules, pure ---------------------------------------------------------------------------


class TestBudgets:
    def test_none_is_ever_spent(self) -> None:
        spent = Spent(10**9, 1e9, 1e9, {"large": 9.0})
        for is_answer in (True, False):
            assert NO_BUDGETS.spent_for_large(spent, is_answer=is_answer) is None
            assert NO_BUDGETS.room("large", spent, is_answer=is_answer) is None
        assert NO_BUDGETS.over(spent) is NO_BUDGETS.closing(spent) is None
        assert NO_BUDGETS.wall(can_close=True, constrained=False) is None

    def test_of_tokens_a_quarter_is_kept_for_the_answer(self) -> None:
        budgets = Budgets(max_large_tokens=100)
        for tokens, *spent_for in [(74, False, False), (75, True, False), (100, True, True)]:
            spent = Spent(large_tokens=tokens)
            reasons = [budgets.spent_for_large(spent, is_answer=last) for last in (False, True)]
            assert [reason is not None for reason in reasons] == spent_for
        spent = Spent(large_tokens=70)
        assert budgets.room("large", spent, is_answer=False) == 5
        assert budgets.room("large", spent, is_answer=True) == 30
        assert budgets.room("small", spent, is_answer=True) is None
        assert budgets.over(spent) is budgets.closing(spent) is None

    def test_one_token_may_be_written(self) -> None:
        budgets = Budgets(max_large_tokens=1)
        assert budgets.spent_for_large(NOTHING_SPENT, is_answer=False) is None
        assert budgets.spent_for_large(Spent(1), is_answer=False) is not None

    @pytest.mark.parametrize(
        ("cost", "closing", "over"), [(0.0, False, False), (7.5, True, False), (10.0, True, True)]
    )
    def test_of_money(self, cost: float, closing: bool, over: bool) -> None:
        budgets = Budgets(max_cost=10.0, prices=(0.001, 0.01))
        spent = Spent(cost=cost)
        assert budgets.closing(spent) == ("max_cost" if closing else None)
        assert budgets.over(spent) == ("max_cost" if over else None)

    def test_no_answer_is_begun_that_could_not_be_ended(self) -> None:
        budgets = Budgets(max_cost=10.0, prices=(0.001, 0.01))
        assert budgets.spent_for_large(Spent(cost=7.7), is_answer=True) is None
        words = budgets.spent_for_large(Spent(cost=7.8), is_answer=True)
        assert words == (
            "max_cost=10: 7.8 is spent, what is left is too little for an answer of the large model"
        )
        short = Budgets(max_cost=10.0, prices=(0.001, 0.01), answer_tokens=10)
        assert short.spent_for_large(Spent(cost=8.8), is_answer=True) is None

    @pytest.mark.parametrize(
        ("seconds", "closing", "over"), [(7.4, None, None), (7.5, "deadline", None)]
    )
    def test_of_time(self, seconds: float, closing: str | None, over: str | None) -> None:
        budgets = Budgets(deadline=10.0)
        spent = Spent(seconds=seconds)
        assert (budgets.closing(spent), budgets.over(spent)) == (closing, over)
        assert budgets.over(Spent(seconds=10.0)) == "deadline"

    def test_of_time_counts_how_fast_the_models_are(self) -> None:
        budgets = Budgets(deadline=10.0)
        slow = Spent(seconds=1.0, token_seconds={"large": 0.1, "small": 0.01})
        assert budgets.spent_for_large(slow, is_answer=True) is not None
        assert budgets.room("large", slow, is_answer=False) == 40
        assert budgets.room("small", slow, is_answer=False) == 650
        assert budgets.room("large", slow, is_answer=True) is None

    def test_of_time_a_wall(self) -> None:
        budgets = Budgets(deadline=8.0)
        assert budgets.wall(can_close=True, constrained=False) == 6.0
        assert budgets.wall(can_close=False, constrained=False) == 8.0
        assert budgets.wall(can_close=False, constrained=True) is None

    def test_where_a_price_is_next_to_nothing(self) -> None:
        budgets = Budgets(max_cost=10.0, prices=(5e-324, 5e-324))
        assert budgets.room("large", NOTHING_SPENT, is_answer=True) == 10**9
        assert budgets.room("large", Spent(cost=11.0), is_answer=True) == 1

    @given(
        st.builds(
            Budgets,
            st.none() | st.integers(1, 1000),
            st.none() | st.floats(1e-6, 10),
            st.none() | st.floats(1e-3, 1000),
            st.tuples(st.floats(0, 0.1), st.floats(0, 0.1)),
            st.integers(1, 4096),
        ),
        st.integers(0, 2000),
        st.floats(0, 20),
        st.floats(0, 2000),
    )
    def test_what_is_spent_stays_spent(
        self, budgets: Budgets, tokens: int, cost: float, seconds: float
    ) -> None:
        now = Spent(tokens, cost, seconds, {"large": 0.02})
        later = Spent(2 * tokens, 2 * cost, 2 * seconds, {"large": 0.02})
        for is_answer in (True, False):
            if budgets.spent_for_large(now, is_answer=is_answer):
                assert budgets.spent_for_large(later, is_answer=is_answer)
            room = budgets.room("large", now, is_answer=is_answer)
            assert room is None or room >= 1
        if budgets.over(now):
            assert budgets.closing(now) and budgets.over(later)


class TestRule:
    def test_asks_them_in_order(self) -> None:
        rule = Rule(Threshold(-1.0), budgets=Budgets(None, 1.0, None, (0.0, 0.0)))

        def action(cost: float, **options: Any) -> object:
            return rule.action(StepStart(3, spent=Spent(cost=cost), can_close=True, **options))

        assert action(0.4) == Write("large", "threshold -1", bound=-1.0, policy="threshold")
        assert action(0.6) == Write("small", "max_cost=1: 0.6 is spent, the rest is kept")
        assert action(0.75) == CloseThinking("max_cost")
        assert action(1.0) == Stop("max_cost")
        answering = StepStart(3, is_answer=True, spent=Spent(cost=0.95))
        assert isinstance(rule.action(answering), WriteAlone)

    def test_json_is_written_to_its_end(self) -> None:
        rule = Rule(budgets=Budgets(1, 1.0, 1.0, (1.0, 1.0)))
        start = StepStart(3, is_answer=True, constrained=True, spent=Spent(100, 100.0, 100.0))
        assert rule.action(start) == Write("large", "answer_by='large'")


# -- calls -------------------------------------------------------------------------------------


def talker(thoughts: int = 1000, answer: list[str] | None = None) -> Callable[[bytes], Any]:
    """A model that thinks so many steps of four tokens, every second one hard, and answers.

    It answers wherever its thinking is closed, by itself or not.
    """
    words = [f" word{k}" for k in range(200)] if answer is None else answer

    def next_token(text: bytes) -> ScriptedToken:
        chain, tag, said = text.partition(b"</think>")
        if tag:
            return _after(words, said.lstrip(b"\n")), 0.0
        done, _, step = chain.rpartition(b"\n\n")
        number = done.count(b"\n\n") + bool(done)
        if number >= thoughts and not step:
            return b"</think>", 0.0
        token = _after([f"Thought {number}", " goes", " on", ".\n\n"], step)
        return token or b".\n\n", (2.0 if number % 2 else 0.1) if not step else 0.0

    return next_token


def _after(tokens: list[str], text: bytes) -> bytes:
    so_far = ""
    for token in tokens:
        if so_far.encode() == text:
            return token.encode()
        so_far += token
    return b""


def made(
    thoughts: int = 1000,
    answer: list[str] | None = None,
    *,
    small_delay: float = 0.0,
    large_delay: float = 0.0,
    make: Any = GlimpRouter,
    template: str | None = None,
    tags: bool = True,
    supports_schema: bool = True,
    **options: Any,
) -> Any:
    models = {
        name: ScriptedBackend(
            talker(thoughts, answer),
            name=name,
            delay=delay,
            generation_prompt=OPENED if tags else "<assistant>\n",
            template=template,
            supports_schema=supports_schema,
        )
        for name, delay in (("small", small_delay), ("large", large_delay))
    }
    options = {"temperature": 0.0, "max_thinking_tokens": 400, **options}
    return make(**models, **options)


def whole(result: RoutedAnswer) -> RoutedAnswer:
    """The result; its text is all of its steps, in order."""
    texts = {"reasoning": "", "answer": ""}
    for step in result.trace.steps:
        texts[step.kind] += step.text
    assert (result.reasoning, result.answer) == (texts["reasoning"], texts["answer"].lstrip())
    assert all(step.end is not None for step in result.trace.steps)
    return result


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestLargeTokens:
    @pytest.mark.parametrize("limit", [1, 2, 7, 40, 150])
    @pytest.mark.parametrize("thoughts", [3, 40])
    def test_are_never_more(self, limit: int, thoughts: int, strategy: str) -> None:
        options = {"max_large_tokens": limit, "strategy": strategy}
        events = list(made(thoughts, **options).stream("q"))
        result = whole(result_of(events))
        assert result.usage.large.output_tokens <= limit + 2
        # Nothing is lost: the small model writes on, also in the middle of the answer.
        assert len(result.answer.split()) == 200
        assert finish_reason(result) == "stop"
        assert shown(events) == result.reasoning + result.answer
        assert told(events, "answer") == result.answer
        (limits,) = result.trace.limits
        assert limits.startswith(f"max_large_tokens={limit}: {limit}")
        authors = [step.author for step in result.trace.steps if step.kind == "answer"]
        assert authors[-1] == "small"
        assert "large" in authors or limit < 4

    def test_that_suffice_change_nothing(self, strategy: str) -> None:
        free = made(6, strategy=strategy).run("q")
        held = made(6, strategy=strategy, max_large_tokens=5000).run("q")
        assert held.trace.limits == []
        assert [s.text for s in held.trace.steps] == [s.text for s in free.trace.steps]
        assert [s.author for s in held.trace.steps] == [s.author for s in free.trace.steps]


class TestCost:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("thoughts", [3, 1000])
    @pytest.mark.parametrize("limit", [1e-5, 1e-4, 1.5 * SHORT, 3 * SHORT])
    def test_is_never_higher(self, limit: float, thoughts: int, strategy: str) -> None:
        one = made(
            thoughts, max_cost=limit, prices=PRICES, strategy=strategy, max_thinking_tokens=2000
        )
        events = list(one.stream("q"))
        result = whole(result_of(events))
        # Some tokens may be on their way when a stream is closed.
        assert result.trace.cost <= limit + 3 * 10e-6
        assert shown(events) == result.reasoning + result.answer
        complete = len(result.answer.split()) == 200
        assert finish_reason(result) == ("stop" if complete else "length")
        if not complete:
            assert result.trace.answer_stop == "max_cost"
            assert result.trace.limits[-1] == f"max_cost={limit:g}: the reply ended here"
        if thoughts == 1000 and limit < 2e-4:
            assert result.trace.stop_reason == "max_cost"
            assert result.answer, "a quarter is kept for the answer"

    def test_prompts_count_too(self) -> None:
        prices = {"small": {"input": 1, "output": 1}, "large": {"input": 10, "output": 10}}
        dear = made(prices=prices, max_cost=5e-3, max_thinking_tokens=2000).run("q " * 50)
        cheap = made(prices=PRICES, max_cost=5e-3, max_thinking_tokens=2000).run("q " * 50)
        assert dear.usage.large.output_tokens < cheap.usage.large.output_tokens
        assert dear.trace.limits and dear.trace.cost <= 7.5e-3

    def test_json_is_written_to_its_end(self) -> None:
        for supports_schema in (True, False):
            one = made(
                answer=answer(JSON_ANSWER, supports_schema=supports_schema),
                max_cost=5e-5,
                prices=PRICES,
                supports_schema=supports_schema,
            )
            result = one.run("q", JSON)
            assert result.answer == "".join(JSON_ANSWER)
            assert result.trace.limits[-1] == "max_cost=5e-05: the thinking was closed"


SLOW = {"small_delay": 0.001, "large_delay": 0.004}


class TestDeadline:
    def test_closes_the_thinking_and_answers(self) -> None:
        one = made(answer=["Four", ".", ""], deadline=0.6, max_thinking_tokens=10_000, **SLOW)
        begun = time.perf_counter()
        events = list(one.stream("q"))
        assert time.perf_counter() - begun < 3
        result = whole(result_of(events))
        assert result.answer == "Four."
        assert (result.trace.stop_reason, result.trace.answer_stop) == ("deadline", "eos")
        assert result.trace.limits[-1] == "deadline=0.6 s: the thinking was closed"
        assert finish_reason(result) == "stop"
        assert shown(events) == result.reasoning + result.answer

    def test_ends_a_long_answer(self) -> None:
        long = [f" word{k}" for k in range(2000)]
        one = made(2, long, deadline=0.4, small_delay=0.001, large_delay=0.001)
        events = list(one.stream("q"))
        result = whole(result_of(events))
        assert result.answer and "".join(long).lstrip().startswith(result.answer.lstrip())
        assert (result.trace.answer_stop, finish_reason(result)) == ("deadline", "length")
        assert result.trace.steps[-1].end == "deadline"
        assert result.trace.limits[-1] == "deadline=0.4 s: the reply ended here"
        assert shown(events) == result.reasoning + result.answer
        assert result.trace.seconds < 3

    def test_is_not_missed_for_a_step_that_hangs(self) -> None:
        # The large model's first token would come after ten seconds.
        one = made(deadline=0.6, large_delay=10.0, answer_by="small", answer=["Four", ""])
        result = whole(one.run("q"))
        assert result.answer == "Four"
        assert [(s.author, s.end) for s in result.trace.steps] == [
            ("small", "delimiter"),
            ("large", "deadline"),
            ("small", "eos"),
        ]
        assert result.trace.seconds < 3

    def test_without_tags_ends_the_reply(self) -> None:
        one = made(deadline=0.3, tags=False, max_tokens=10_000, **SLOW)
        events = list(one.stream("q"))
        result = result_of(events)
        assert result.reasoning + result.answer == shown(events) != ""
        assert (result.trace.stop_reason, finish_reason(result)) == ("deadline", "length")

    def test_json_is_written_to_its_end(self) -> None:
        for supports_schema in (True, False):
            one = made(
                answer=answer(JSON_ANSWER, supports_schema=supports_schema),
                deadline=0.4,
                supports_schema=supports_schema,
                small_delay=0.005,
                large_delay=0.005,
            )
            result = one.run("q", JSON)
            assert result.answer == "".join(JSON_ANSWER)
            assert result.trace.seconds > 0.4

    def test_a_tool_call_is_written_to_its_end(self) -> None:
        call = ['{"name": "weather", ', '"arguments": {}', *[" "] * 60, "}"]
        delays = {"small_delay": 0.005, "large_delay": 0.005}
        one = made(answer=demanded(call), deadline=0.4, template=HERMES, **delays)
        result = one.run("q", OutputSpec(tools=[WEATHER], tool_choice="weather"))
        assert [call.name for call in result.tool_calls] == ["weather"]
        assert result.invalid_tool_calls == [] and result.trace.seconds > 0.4
        assert finish_reason(result) == "tool_calls"

    def test_passes_while_models_are_made_ready(self) -> None:
        one = made(deadline=0.05)

        async def slow(*_: object) -> object:
            await asyncio.sleep(5)
            raise AssertionError

        one.small.render = slow
        with pytest.raises(BackendError) as raised:
            one.run("q")
        assert str(raised.value).startswith(
            "deadline=0.05 s passed before the models were ready to write: give more time, or load "
            "them before (GlimpRouter.pair_info() does)"
        )
        assert raised.value.partial is None

    def test_that_suffices_changes_nothing(self) -> None:
        free, held = made(6).run("q"), made(6, deadline=60.0).run("q")
        assert held.trace.limits == []
        assert [s.text for s in held.trace.steps] == [s.text for s in free.trace.steps]

    def test_leaves_no_stream_open(self) -> None:
        one = made(deadline=0.2, **SLOW)
        for _ in range(2):
            one.run("q")
        for backend in (one.small, one.large):
            assert backend.closed_early <= len(backend.requests)


def test_adapters_say_what_ended_a_reply() -> None:
    options = {"max_cost": 5e-5, "prices": PRICES}
    message = made(make=ChatGlimpRouter, **options).invoke("q")
    metadata = message.response_metadata
    assert metadata["finish_reason"] == "length"
    assert metadata["glimprouter"]["limits"][-1] == "max_cost=5e-05: the reply ended here"
    assert metadata["glimprouter"]["stop_reason"] == "max_cost"
    streamed = list(made(make=ChatGlimpRouter, **options).stream("q"))
    assert "".join(chunk.text for chunk in streamed) == message.text
    response = made(make=GlimpRouterLLM, **options).complete("q")
    assert response.text == message.text
    assert response.raw["glimprouter"]["limits"] == metadata["glimprouter"]["limits"]
    assert response.raw["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_large_tokens": 0}, "max_large_tokens: .*greater than or equal to 1 .got 0."),
        ({"max_cost": 0, "prices": PRICES}, "max_cost: .*greater than 0 .got 0."),
        ({"max_cost": math.inf, "prices": PRICES}, "max_cost: .*finite number .got inf."),
        ({"deadline": 0}, "deadline: .*greater than 0 .got 0."),
        ({"deadline": -1.0}, "deadline: .*greater than 0 .got -1.0."),
        ({"deadline": math.nan}, "deadline: .*got nan"),
        ({"max_cost": 0.5}, "max_cost=0.5 needs prices of both models, such as prices="),
    ],
)
def test_impossible_budgets_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(**options)
    with pytest.raises(ConfigError, match=words):
        made().run("q", **options)
