"""Arguments of calls, payloads and events of LlamaIndex's LLM, as data."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from scripted_llms import scripted

from glimp_integrations import ConfigError
from llamaindex_glimp.events import RoutedStepEndEvent, RoutedStepStartEvent, RoutingEvent

HI = [ChatMessage("hi")]


@pytest.mark.parametrize("stop", ["Observation:", ["Observation:"], ("Observation:",)])
async def test_one_stop_may_stand_alone(stop: Any) -> None:
    def llm(**options: Any) -> Any:
        return scripted("The weather is nice.\n", "Observation: no", **options)

    expected = "The weather is nice.\n"
    assert llm().chat(HI, stop=stop).message.content == expected
    assert llm(stop=stop).chat(HI).message.content == expected
    assert llm().complete("hi", stop=stop).text == expected
    assert [*llm().stream_complete("hi", stop=stop)][-1].text == expected
    assert (await llm().achat(HI, stop=stop)).message.content == expected
    with pytest.raises(ConfigError, match="stop"):
        llm().chat(HI, stop=[7])


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_payloads_and_events_are_strict_json(threshold: float) -> None:
    llm = scripted("Fine.", threshold=threshold, step_events=True)
    assert json.loads(json.dumps(llm.to_payload(), allow_nan=False))["threshold"] == str(threshold)
    response = llm.chat(HI)
    json.dumps(response.raw, allow_nan=False)
    for event in llm.router.stream("hi"):
        kinds = {"StepStarted": RoutedStepStartEvent, "StepDone": RoutedStepEndEvent}
        kind = kinds.get(type(event).__name__, RoutingEvent)
        json.dumps(kind(event=event).model_dump(mode="json"), allow_nan=False)
