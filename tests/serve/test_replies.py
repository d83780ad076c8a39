"""Replies through OpenAI's own client, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from real_templates import TemplatedTurns, source
from scripts import CALL, answer, bound, demanded, of_own_accord, pair, tokens

from serve.conftest import ANSWER, QUESTION, Serve

REASONING = "First.\n\nThen.\n"
PRICES = {"small": {"input": 1, "output": 2}, "large": {"input": 10, "output": 20}}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def added(chunks: list[Any]) -> dict[str, Any]:
    """What a client puts together of a stream."""
    whole: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "finish": None}
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            whole["content"] += delta.content or ""
            whole["reasoning"] += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or ():
                known = whole["calls"].setdefault(call.index, {"name": "", "arguments": ""})
                known["id"] = call.id or known.get("id")
                known["name"] += call.function.name or ""
                known["arguments"] += call.function.arguments or ""
            whole["finish"] = choice.finish_reason or whole["finish"]
    return whole


def test_a_reply(serve: Serve) -> None:
    reply = serve().ask()
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("It is four.", "stop")
    assert choice.message.reasoning_content == REASONING
    assert choice.message.role == "assistant" and reply.object == "chat.completion"
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 5
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert reply.glimp["large_share"] == 0.8
    taken = reply.glimp["tokens"]
    assert taken["large"]["kept"] / (taken["small"]["kept"] + taken["large"]["kept"]) == 0.8
    for kind, total in (("input", usage.prompt_tokens), ("output", usage.completion_tokens)):
        assert taken["small"][kind] + taken["large"][kind] == total


def test_a_stream_holds_the_same(serve: Serve) -> None:
    served = serve()
    chunks = list(served.ask(stream=True, stream_options={"include_usage": True}))
    whole = added(chunks)
    assert (whole["content"], whole["reasoning"], whole["finish"]) == (
        "It is four.",
        REASONING,
        "stop",
    )
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) == len(ANSWER)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage == served.ask().usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].glimp["large_share"] == 0.8
    assert all(chunk.usage is None for chunk in served.ask(stream=True))


def test_headers_tell_share_and_cost(serve: Serve) -> None:
    client = serve(routing={"prices": PRICES}).client().chat.completions
    reply = client.with_raw_response.create(model="glimp", messages=QUESTION)  # type: ignore
    assert reply.headers["x-glimp-share"] == "0.8000"
    assert float(reply.headers["x-glimp-cost"]) == pytest.approx(
        json.loads(reply.content)["glimp"]["cost"]
    )
    assert reply.headers["x-request-id"].startswith("req_")


def test_a_trace_comes_when_it_is_asked_for(serve: Serve) -> None:
    served = serve()
    extra = {"extra_body": {"glimp": {"trace": True}}}
    steps = served.ask(**extra).glimp["trace"]["steps"]
    assert [step["author"] for step in steps] == ["small", "large", "large"]
    *_, last = served.ask(stream=True, **extra)
    assert [s["text"] for s in last.glimp["trace"]["steps"]] == [s["text"] for s in steps]
    assert "trace" not in served.ask().glimp


def test_pieces_tell_their_author(serve: Serve) -> None:
    chunks = serve().ask(stream=True, extra_body={"glimp": {"steps": True}})
    authors: dict[int, str] = {}
    for chunk in chunks:
        told = getattr(chunk, "glimp", None) or {}
        if "author" in told and chunk.choices[0].delta.to_dict():
            authors[told["step"]] = told["author"]
    assert authors == {0: "small", 1: "large", 2: "large"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call(serve: Serve, stream: bool) -> None:
    served = serve(pair(*of_own_accord(CALL)))
    reply = served.ask(tools=[WEATHER], stream=stream)
    if stream:
        whole = added(list(reply))
        (call,) = whole["calls"].values()
        name, arguments, finish = call["name"], call["arguments"], whole["finish"]
    else:
        (told,) = reply.choices[0].message.tool_calls
        name, arguments = told.function.name, told.function.arguments
        finish = reply.choices[0].finish_reason
        assert reply.choices[0].message.content is None and told.id
    assert (name, json.loads(arguments), finish) == ("get_weather", {"city": "Paris"}, "tool_calls")


def test_a_tool_loop_with_its_reasoning(serve: Serve) -> None:
    models = {
        role: TemplatedTurns(
            tokens(("I look", 0.1), ".\n", "</think>", "\n\n", *of_own_accord(CALL), ""),
            tokens(("I know", 0.1), ".\n", "</think>", "\n\n", "Sunny.", ""),
            mark="<tool_response>\n",
            template=source("Qwen-Qwen3-0.6B"),
            generation_prompt="<|im_start|>assistant\n<think>\n",
            supports_schema=True,
            name=role,
        )
        for role in ("small", "large")
    }
    served = serve(models)
    first = served.ask(tools=[WEATHER]).choices[0].message
    assert first.reasoning_content == "I look.\n"
    conversation = [
        *QUESTION,
        first.to_dict(),  # as clients send it back, with reasoning_content and all
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"},
    ]
    reply = served.ask(messages=conversation, tools=[WEATHER])
    assert reply.choices[0].message.content == "Sunny."
    assert "<think>\nI look.\n</think>" in models["large"].requests[-1].prompt


def test_a_demanded_call(serve: Serve) -> None:
    served = serve(pair(*demanded(CALL)))
    choice = {"type": "function", "function": {"name": "get_weather"}}
    reply = served.ask(tools=[WEATHER], tool_choice=choice)
    assert reply.choices[0].message.tool_calls[0].function.name == "get_weather"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_no_json_is_handed_on(serve: Serve, stream: bool) -> None:
    broken = ['{"name": "get_weather", ', '"arguments": {"city": ', "Paris"]
    served = serve(pair("<tool_call>\n", *broken, "\n</tool_call>", supports_schema=False))
    reply = served.ask(tools=[WEATHER], stream=stream)
    if stream:
        whole = added(list(reply))
        calls = [(c["name"], c["arguments"]) for c in whole["calls"].values()]
        finish = whole["finish"]
    else:
        calls = [
            (c.function.name, c.function.arguments) for c in reply.choices[0].message.tool_calls
        ]
        finish = reply.choices[0].finish_reason
    assert [name for name, _ in calls] == ["get_weather"] and finish == "tool_calls"
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(calls[0][1])


def test_a_schema_binds_the_answer(serve: Serve) -> None:
    models = pair(*answer(['{"city": ', '"Paris"}']))
    served = serve(models)
    schema = {"name": "city", "schema": CITY, "strict": True}
    reply = served.ask(response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(reply.choices[0].message.content) == {"city": "Paris"}
    assert bound(models["large"])
    reply = served.ask(response_format={"type": "json_object"})
    assert json.loads(reply.choices[0].message.content) == {"city": "Paris"}


def test_openais_own_parsing(serve: Serve) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        city: str

    served = serve(pair(*answer(['{"city": ', '"Paris"}'])))
    reply = served.client().chat.completions.parse(
        model="glimp",
        messages=QUESTION,
        response_format=City,  # type: ignore[arg-type]
    )
    assert reply.choices[0].message.parsed == City(city="Paris")


def test_parameters_reach_the_models(serve: Serve) -> None:
    models = pair(*ANSWER)
    served = serve(models)
    served.ask(temperature=0.3, top_p=0.5, seed=7)
    request = models["large"].requests[0]
    assert (request.temperature, request.top_p) == (0.3, 0.5)
    assert request.seed is not None
    assert served.ask(stop=["is"]).choices[0].message.content == "It "
    for limit in ({"max_tokens": 8}, {"max_completion_tokens": 8}, {"max_tokens": 8.0}):
        cut = served.ask(**limit)
        assert cut.choices[0].finish_reason == "length"
        assert cut.choices[0].message.content == "It is four"


def test_further_sampling_reaches_both_models(serve: Serve) -> None:
    models = pair(*ANSWER)
    served = serve(models, routing={"top_k": 20, "presence_penalty": 1.5})
    names = ("presence_penalty", "top_k", "min_p", "repetition_penalty")

    def sent(**given: Any) -> list[Any]:
        for model in models.values():
            model.requests.clear()
        served.ask(**given)
        fields = [tuple(getattr(m.requests[-1], n) for n in names) for m in models.values()]
        assert fields[0] == fields[1], "both models sample alike"
        return list(fields[0])

    given = {"top_k": 40.0, "min_p": 0.1, "repetition_penalty": 1.2}
    assert sent(presence_penalty=-0.5, extra_body=given) == [-0.5, 40, 0.1, 1.2]
    assert sent() == [1.5, 20, None, None], "the server's own"
    for every_token in (-1, 0):
        assert sent(presence_penalty=0, extra_body={"top_k": every_token})[:2] == [0, None]


def test_what_changes_nothing_is_ignored(serve: Serve) -> None:
    reply = serve().ask(
        user="me",
        metadata={"a": "b"},
        store=False,
        n=1,
        logprobs=False,
        frequency_penalty=0,
        logit_bias={},
        service_tier="auto",
        modalities=["text"],
    )
    assert reply.choices[0].message.content == "It is four."


def test_settings_of_one_request(serve: Serve) -> None:
    models = pair(*ANSWER)
    served = serve(models)
    told = served.ask(extra_body={"glimp": {"threshold": 3}}).glimp
    assert told["large_step_share"] == 0
    assert served.ask(extra_body={"glimp": {"threshold": "inf"}}).glimp["large_step_share"] == 0
    assert served.ask().glimp["large_step_share"] == 0.5, "for that request only"


def test_models(serve: Serve) -> None:
    served = serve(model_name="pair/one")
    client = served.client()
    assert [model.id for model in client.models.list()] == ["pair/one"]
    assert client.models.retrieve("pair/one").owned_by == "glimp-integrations"
    assert served.ask(model="pair/one").model == "pair/one"


async def test_many_at_once_are_not_mixed_up(serve: Serve) -> None:
    import asyncio

    import openai

    served = serve()
    async with openai.AsyncOpenAI(base_url=served.url, api_key="x", max_retries=0) as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model="glimp",
                messages=[{"role": "user", "content": str(number)}],
                stream=True,
                extra_body={"glimp": {"trace": True}},
            )
            chunks = [chunk async for chunk in stream]
            return str(added(chunks)["content"])

        assert set(await asyncio.gather(*map(one, range(20)))) == {"It is four."}


def test_text_without_tags_comes_when_its_kind_is_known(serve: Serve) -> None:
    served = serve(pair("So", " it", " is", ".", tags=False))
    whole = added(list(served.ask(stream=True)))
    reply = served.ask().choices[0].message
    assert (whole["content"], whole["reasoning"]) == (reply.content, reply.reasoning_content)
    assert reply.content == "So it is."
