"""One limit on reasoning and answer together, as ``max_completion_tokens`` of OpenAI's API."""

from __future__ import annotations

from typing import Any

import pytest
from scripts import CALL, PARIS, demanded, model, pair

from glimp_integrations import GlimpRouter, OutputSpec, RoutedAnswer
from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.trace import finish_reason

ANSWER = ("It", " is", " four", ".")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def asked(limit: int | None, *, strategy: str = "fused", tags: bool = True, **given: Any) -> Any:
    models = pair(*ANSWER, tags=tags)
    options = {"temperature": 0, "route": "always", "strategy": strategy}
    return GlimpRouter(**models, **options).run("hi", max_completion_tokens=limit, **given)


def kept(result: RoutedAnswer) -> int:
    return sum(step.tokens for step in result.trace.steps)


@pytest.mark.parametrize("strategy", ["two_request", "fused", "overlap"])
@pytest.mark.parametrize("limit", range(2, 10))
def test_a_reply_is_never_longer(limit: int, strategy: str) -> None:
    result = asked(limit, strategy=strategy)
    assert kept(result) <= limit
    whole = asked(None)
    assert whole.reasoning.startswith(result.reasoning)
    assert whole.answer.startswith(result.answer)
    assert result.trace.steps[-1].kind == "answer", "a quarter is kept for it"


@pytest.mark.parametrize("limit", range(1, 6))
def test_without_tags_too(limit: int) -> None:
    assert kept(asked(limit, tags=False)) == limit


def test_what_the_reasoning_left_is_the_answers() -> None:
    whole = asked(None)
    assert kept(whole) == 10
    assert asked(10).answer == whole.answer, "more than a quarter"
    cut = asked(8)
    assert (cut.answer, finish_reason(cut), cut.trace.answer_stop) == (
        "It is four",
        "length",
        "budget",
    )


def test_other_limits_hold_beside_it() -> None:
    assert asked(100, max_tokens=2).answer == "It is"
    assert asked(100, max_thinking_tokens=2).reasoning == "First.\n\n"


def test_a_demanded_call_gets_its_part() -> None:
    behind = demanded(CALL)
    models = {"small": model(*behind), "large": model(*behind)}
    output = OutputSpec(tools=[WEATHER], tool_choice="required")
    result = GlimpRouter(**models, temperature=0).run("hi", output, max_completion_tokens=20)
    assert [(c.name, c.arguments) for c in result.tool_calls] == [PARIS]


def test_nothing_is_no_limit() -> None:
    with pytest.raises(ConfigError, match="max_completion_tokens"):
        GlimpRouter(**pair(*ANSWER), max_completion_tokens=0)
