"""What leaves the package as data is JSON that every reader takes: no Infinity, no NaN."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scripts import REASONING, pair

from glimp_integrations import ConfigError, GlimpRouter, RoutingSettings, Trace
from glimp_integrations.adapter import record
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.events import StepDone, StepStarted, from_dict, to_dict

ENDLESS = [math.inf, -math.inf]


def strict(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("threshold", ENDLESS)
def test_events_and_records_of_an_endless_threshold(threshold: float) -> None:
    with GlimpRouter(**pair("Fine."), threshold=threshold, temperature=0, timeout=None) as router:
        events = list(router.stream("hi"))
    for event in events:
        assert from_dict(strict(to_dict(event))) == event
    result = events[-1].result
    assert result.reasoning == REASONING
    assert strict(record(result))["steps"][0]["threshold"] == str(threshold)
    assert Trace.from_json(result.trace.to_json()) == result.trace


@pytest.mark.parametrize("number", [*ENDLESS, math.nan])
def test_numbers_that_a_model_or_a_user_put_into_a_record(number: float) -> None:
    with GlimpRouter(**pair("Fine."), temperature=0) as router:
        trace = router.run("hi").trace
    threshold = math.inf if math.isnan(number) else number  # NaN decides nothing: it is refused
    step = trace.steps[0].model_copy(update={"threshold": threshold, "entropy": number})
    odd = trace.model_copy(update={"steps": [step], "large_alone_cost": number})
    told = strict(odd.model_dump(mode="json"))
    assert told == json.loads(odd.to_json()) == strict(json.loads(odd.model_dump_json()))
    assert told["steps"][0]["entropy"] == told["large_alone_cost"] == str(number)
    back = Trace.from_json(odd.to_json())
    assert repr(back.steps[0].entropy) == repr(number)
    assert strict(to_dict(StepDone(step)))["record"]["threshold"] == str(threshold)
    started = from_dict(strict(to_dict(StepStarted(0, "small", number, is_answer=False))))
    assert repr(started.entropy) == repr(number)


def test_settings_are_json_and_come_back() -> None:
    settings = RoutingSettings(threshold=math.inf, timeout=math.inf)
    told = strict(settings.model_dump(mode="json"))
    assert (told["threshold"], told["timeout"]) == ("inf", "inf")
    again = RoutingSettings(**{k: v for k, v in told.items() if v is not None})
    assert again.threshold == again.timeout == math.inf


@pytest.mark.parametrize("value", [*ENDLESS, math.nan])
def test_a_temperature_or_a_price_without_end_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        RoutingSettings(temperature=value)
    price = {"input": value, "output": 1.0}
    with pytest.raises(ConfigError, match="prices"):
        RoutingSettings(prices={"small": price, "large": price})


def test_everything_else_stays_as_it_is() -> None:
    value = {"a": [1, 2.5, "x", None, True, (math.inf, {"b": math.nan})]}
    assert plain(value) == {"a": [1, 2.5, "x", None, True, ["inf", {"b": "nan"}]]}
