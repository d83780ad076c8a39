"""What a call reports: one record a step, totals, usage, costs."""

from __future__ import annotations

import math

import pytest
from helpers import OPENED, model, router

from glimp_integrations import Price, Prices, Trace

STRATEGIES = ["two_request", "fused"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_record_a_step(strategy):
    trace = router(strategy=strategy).run("?").trace
    assert [(s.index, s.author, s.kind, s.text, s.tokens, s.end) for s in trace.steps] == [
        (0, "small", "reasoning", "Let me think\n\n", 2, "delimiter"),
        (1, "large", "reasoning", "2 + 2 = 4.\n\n", 3, "delimiter"),
        (2, "small", "reasoning", "Done.\n", 3, "think_end"),
        (3, "large", "answer", "The answer is 4.", 2, "eos"),
    ]
    entropies = [step.entropy for step in trace.steps]
    assert entropies[:3] == pytest.approx([0.2, 2.0, 0.3], abs=1e-6)
    assert entropies[3] is None
    assert {step.estimator for step in trace.steps} == {"topk_renorm@20"}
    assert {step.threshold for step in trace.steps} == {1.0}
    assert all(0 <= step.first_token_seconds <= step.seconds for step in trace.steps)
    assert (trace.stop_reason, trace.answer_stop) == ("think_end", "eos")
    assert (trace.small_model, trace.large_model) == ("S", "L")
    assert (trace.strategy, trace.strategy_reason) == (strategy, "asked for")
    assert trace.prompt_tokens == len(f"<user>?\n{OPENED}")
    assert trace.seconds >= sum(step.seconds for step in trace.steps)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_glimpse_of_the_large_step_is_discarded(strategy):
    trace = router(strategy=strategy).run("?").trace
    assert [step.discarded_tokens for step in trace.steps] == [0, 1, 0, 0]
    assert trace.discarded_tokens == 1


def test_shares():
    trace = router().run("?").trace
    assert (trace.tokens("small"), trace.tokens("large")) == (5, 5)
    assert trace.large_share == pytest.approx(5 / 10)
    assert trace.large_step_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_usage_is_the_sum_of_all_requests(strategy):
    small, large = model(), model()
    usage = router(small, large, strategy=strategy).run("?").usage
    assert usage.small.requests == len(small.requests)
    assert usage.large.requests == len(large.requests)
    assert usage.small.input_tokens == sum(len(r.prompt) for r in small.requests)
    assert usage.large.input_tokens == sum(len(r.prompt) for r in large.requests)
    # Five kept tokens and a discarded one; three tokens of a step and two of the answer.
    assert (usage.small.output_tokens, usage.large.output_tokens) == (6, 5)
    assert usage.reasoning_tokens == 2 + 3 + 3
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens == 11
    assert not usage.small.estimated


def test_costs():
    prices = Prices(small=Price(input=1, output=2), large=Price(input=10, output=20))
    result = router(prices=prices).run("?")
    small, large = result.usage.small, result.usage.large
    micro = small.input_tokens + 6 * 2 + large.input_tokens * 10 + 5 * 20
    assert result.trace.cost == pytest.approx(micro / 1e6)
    alone = result.trace.prompt_tokens * 10 + (5 + 5) * 20
    assert result.trace.large_alone_cost == pytest.approx(alone / 1e6)


def test_no_prices_no_costs():
    trace = router().run("?").trace
    assert (trace.cost, trace.large_alone_cost) == (None, None)


@pytest.mark.parametrize("threshold", [1.0, math.inf, -math.inf])
def test_a_trace_comes_back_from_json(threshold, tmp_path):
    trace = router(threshold=threshold).run("?").trace
    assert Trace.from_json(trace.to_json()) == trace
    trace.save(tmp_path / "trace.json")
    assert Trace.from_json((tmp_path / "trace.json").read_bytes()) == trace
    assert float(trace.steps[0].threshold) == threshold
