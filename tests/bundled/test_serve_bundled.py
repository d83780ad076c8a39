"""``glimp serve`` over the bundled pair, through OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serve.conftest import Served, servers
from serve.held import until

from glimp_integrations.backends import LlamaCppBackend

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
QUESTION = [{"role": "user", "content": "What is 17 + 25? Answer with the number."}]


@pytest.fixture(scope="module")
def served(small: LlamaCppBackend, large: LlamaCppBackend) -> Iterator[Served]:
    with servers() as start:
        yield start(
            {"small": small, "large": large}, routing={"max_tokens": 64, "max_thinking_tokens": 64}
        )


def test_chat_and_stream_say_the_same(served: Served) -> None:
    until(lambda: httpx.get(f"{served.root}/ready", timeout=60).status_code == 200, seconds=120)
    whole = served.ask(messages=QUESTION, seed=1)
    assert "42" in whole.choices[0].message.content
    assert 0 <= whole.glimp["large_share"] <= 1
    chunks = list(
        served.ask(messages=QUESTION, seed=1, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens > 0


def test_a_tool_call_and_an_answer_by_schema(served: Served) -> None:
    asked = [{"role": "user", "content": "How is the weather in Paris?"}]
    choice = {"type": "function", "function": {"name": "get_weather"}}
    reply = served.ask(messages=asked, tools=[WEATHER], tool_choice=choice, max_tokens=200)
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    assert reply.choices[0].finish_reason == "tool_calls"
    schema = {
        "name": "sum",
        "schema": {"type": "object", "properties": {"sum": {"type": "integer"}}},
    }
    schema["schema"]["required"] = ["sum"]  # type: ignore[index]
    reply = served.ask(
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": schema},
        max_tokens=200,
    )
    assert isinstance(json.loads(reply.choices[0].message.content)["sum"], int)


def test_a_conversation_that_is_too_long(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        served.ask(messages=[{"role": "user", "content": "word " * 60_000}])
    assert raised.value.code == "context_length_exceeded"
