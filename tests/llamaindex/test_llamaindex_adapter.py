"""GlimpRouterLLM's replies: whole and streamed, awaited or not, and what they are asked with."""

from __future__ import annotations

import math
from typing import Any

import pytest
from llama_index.core.base.llms.types import MessageRole, TextBlock, ThinkingBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from scripted_llms import (
    CHATS,
    COMPLETIONS,
    HI,
    STREAMS,
    WAYS,
    WEATHER,
    ask,
    authors,
    begin,
    replies,
    scripted,
    thoughts,
)
from scripts import CALL, REASONING, SPOKEN_TEXT, demanded, pair

from glimp_integrations import ConfigError, GlimpRouter, Trace
from llamaindex_glimp import GlimpRouterLLM

PIECES = ["Hel", "lo ", "there."]
ANSWER = "Hello there."


# -- whole replies ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", CHATS)
async def test_the_chain_of_thought_is_a_block_in_front_of_the_answer(way: str) -> None:
    message = (await ask(way, scripted(*PIECES))).message
    thinking, text = message.blocks
    assert isinstance(thinking, ThinkingBlock) and isinstance(text, TextBlock)
    assert thinking.content == REASONING
    assert thinking.num_tokens == 5, "First | . | Then | . | </think>"
    assert (text.text, message.content) == (ANSWER, ANSWER)
    assert message.role == MessageRole.ASSISTANT


@pytest.mark.parametrize("way", CHATS)
async def test_without_thoughts_there_is_no_block_of_them(way: str) -> None:
    for response in await replies(way, scripted(*PIECES, of={"thinks": False})):
        assert [block.block_type for block in response.message.blocks] == ["text"]


@pytest.mark.parametrize("way", CHATS)
async def test_without_tags_the_last_step_is_the_answer(way: str) -> None:
    message = (await ask(way, scripted(*PIECES, tags=False))).message
    assert (thoughts(message), message.content) == ([SPOKEN_TEXT], ANSWER)
    whole = await ask(way, scripted(*PIECES, tags=False), untagged_answer="whole")
    assert thoughts(whole.message) == []
    assert whole.message.content == SPOKEN_TEXT + ANSWER


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_a_completion_is_the_answer_with_the_thoughts_beside_it(way: str) -> None:
    response = await ask(way, scripted(*PIECES))
    assert (response.text, str(response)) == (ANSWER, ANSWER)
    assert response.additional_kwargs["reasoning_content"] == REASONING
    silent = await ask(way, scripted(*PIECES, of={"thinks": False}))
    assert "reasoning_content" not in silent.additional_kwargs


@pytest.mark.parametrize("way", WAYS)
async def test_raw_tells_usage_end_and_trace(way: str) -> None:
    raw = (await ask(way, scripted(*PIECES))).raw
    assert set(raw) == {"model", "finish_reason", "usage", "glimprouter"}
    assert (raw["model"], raw["finish_reason"]) == ("tiny+big", "stop")
    trace = Trace.model_validate(raw["glimprouter"])
    assert [(step.author, step.kind) for step in trace.steps] == [
        ("small", "reasoning"),
        ("large", "reasoning"),
        ("large", "answer"),
    ]
    assert "".join(step.text for step in trace.steps if step.kind == "answer") == ANSWER
    assert trace.steps[1].entropy == pytest.approx(2.0)
    assert raw["glimprouter"]["usage"]["reasoning_tokens"] == raw["usage"]["reasoning_tokens"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_budget_is_a_length_stop(way: str) -> None:
    response = await ask(way, scripted(*PIECES), max_tokens=2)
    assert response.raw["finish_reason"] == "length"
    assert str(response).endswith("Hello ")


@pytest.mark.parametrize("way", WAYS)
async def test_usage_is_the_core_s_and_counted_by_llamaindex(way: str) -> None:
    usage = GlimpRouter(**pair(*PIECES), temperature=0, strategy="two_request").run("hi").usage
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = scripted(*PIECES, callback_manager=CallbackManager([counter]), strategy="two_request")
    response = await ask(way, llm)
    assert response.raw["usage"] == {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
    assert counter.prompt_llm_token_count == usage.input_tokens
    assert counter.completion_llm_token_count == usage.output_tokens
    assert counter.total_llm_token_count == usage.total_tokens
    assert len(counter.llm_token_counts) == 1
    assert response.additional_kwargs["total_tokens"] == usage.total_tokens


# -- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
async def test_messages_grow_and_deltas_are_of_the_answer(way: str, tags: bool) -> None:
    result = await replies(way, scripted(*PIECES, tags=tags))
    thought = text = ""
    for response in result:
        thought += response.additional_kwargs.get("thinking_delta", "")
        text += response.delta
        assert ["".join(map(str, thoughts(response.message))), response.message.content] == [
            thought,
            text,
        ]
        assert response.message.role == MessageRole.ASSISTANT
    assert (thought, text) == (REASONING if tags else SPOKEN_TEXT, ANSWER)
    assert [r.delta for r in result if r.delta] == (PIECES if tags else [ANSWER])
    assert len([r for r in result if r.additional_kwargs.get("thinking_delta")]) >= 2


@pytest.mark.parametrize("way", ["stream_complete", "astream_complete"])
async def test_completions_grow_as_well(way: str) -> None:
    result = await replies(way, scripted(*PIECES))
    text = ""
    for response in result:
        text += response.delta
        assert response.text == text
    assert text == ANSWER
    told = [r.additional_kwargs.get("thinking_delta", "") for r in result]
    assert "".join(told) == REASONING


@pytest.mark.parametrize("way", STREAMS)
async def test_only_the_last_response_of_a_stream_is_of_the_whole(way: str) -> None:
    *before, last = await replies(way, scripted(*PIECES))
    assert [response.raw for response in before] == [None] * len(before)
    assert before and all("total_tokens" not in r.additional_kwargs for r in before)
    assert last.delta == "" and last.raw["finish_reason"] == "stop"
    assert "total_tokens" in last.additional_kwargs


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
@pytest.mark.parametrize("tags", [True, False])
async def test_the_end_of_a_stream_is_the_whole_reply(way: str, tags: bool) -> None:
    whole = scripted(*PIECES, tags=tags, strategy="two_request").chat(HI)
    llm = scripted(*PIECES, tags=tags, strategy="two_request")
    last = await ask(way, llm)
    assert last.message == whole.message
    assert last.additional_kwargs == whole.additional_kwargs
    for name in ("model", "finish_reason", "usage"):
        assert last.raw[name] == whole.raw[name]


@pytest.mark.parametrize("way", STREAMS)
async def test_responses_that_are_out_stay_as_they_were(way: str) -> None:
    llm = scripted(*PIECES)
    given: Any = HI if "chat" in way else "hi"
    then, kept = [], []
    if way.startswith("a"):
        async for response in await getattr(llm, way)(given):
            then.append(response.model_dump_json())
            kept.append(response)
    else:
        for response in getattr(llm, way)(given):
            then.append(response.model_dump_json())
            kept.append(response)
    assert [response.model_dump_json() for response in kept] == then
    assert len(set(then)) == len(then) > 5


# -- settings of one call --------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_settings_change_for_one_call(way: str) -> None:
    llm = scripted(*PIECES)
    assert authors(await ask(way, llm, threshold=math.inf)) == ["small", "small", "large"]
    assert authors(await ask(way, llm, threshold=-1, answer_by="small")) == [
        "large",
        "large",
        "small",
    ]
    assert authors(await ask(way, llm)) == ["small", "large", "large"]
    assert str(await ask(way, llm, stop=["there"])).endswith("Hello ")


def test_settings_may_be_changed_for_good() -> None:
    llm = scripted(*PIECES)
    llm.threshold = math.inf
    assert authors(llm.complete("hi")) == ["small", "small", "large"]
    copy = llm.model_copy(update={"threshold": -1.0})
    assert authors(copy.complete("hi")) == ["large", "large", "large"]
    assert authors(llm.complete("hi")) == ["small", "small", "large"]


@pytest.mark.parametrize("role", ["small", "large"])
def test_a_model_that_is_assigned_is_asked(role: str) -> None:
    llm, other = scripted("one"), pair("one")
    llm.complete("hi")
    setattr(llm, role, other[role])
    llm.complete("hi")
    assert other[role].requests


@pytest.mark.parametrize("way", WAYS)
async def test_an_unknown_argument_is_named_before_anything_is_written(way: str) -> None:
    llm = scripted(*PIECES)
    with pytest.raises(ConfigError, match="unknown argument 'tempreature' for GlimpRouterLLM"):
        await begin(way, llm, tempreature=1)
    assert llm.small.requests == llm.large.requests == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["small", "large", "api_key"])
async def test_the_models_do_not_change_from_call_to_call(way: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'"):
        await ask(way, scripted(*PIECES), **{name: "x"})


@pytest.mark.parametrize("way", WAYS)
async def test_an_impossible_value_is_named(way: str) -> None:
    with pytest.raises(ConfigError, match=r"threshold.*'high'"):
        await ask(way, scripted(*PIECES), threshold="high")


def test_mistakes_of_construction_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="'treshold'"):
        GlimpRouterLLM(treshold=1)
    with pytest.raises(ConfigError, match="'gpt-4'"):
        GlimpRouterLLM(small="gpt-4", large="gpt-4")
    with pytest.raises(ConfigError, match="context_window"):
        scripted("x", context_window=0)


# -- prompts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_a_prompt_is_one_user_message(way: str) -> None:
    llm = scripted(*PIECES)
    await ask(way, llm, "  as it is\n")
    assert llm.large.conversations == [[{"role": "user", "content": "  as it is\n"}]]


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_completion_to_prompt_is_applied_unless_it_was(way: str) -> None:
    llm = scripted(*PIECES, completion_to_prompt=lambda prompt: f"Q: {prompt}")
    await ask(way, llm, "why?")
    await ask(way, llm, "why?", formatted=True)
    asked = [conversation[0]["content"] for conversation in llm.large.conversations]
    assert asked == ["Q: why?", "why?"]


async def test_predictions_see_the_system_prompt() -> None:
    llm, template = scripted(*PIECES, system_prompt="Be brief."), PromptTemplate("Why {what}?")
    assert llm.predict(template, what="now") == ANSWER
    assert await llm.apredict(template, what="now") == ANSWER
    assert "".join(llm.stream(template, what="now")) == ANSWER
    assert "".join([text async for text in await llm.astream(template, what="now")]) == ANSWER
    asked = [conversation for conversation in llm.large.conversations if len(conversation) > 1]
    assert (
        asked
        == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why now?"}]]
        * 4
    )


# -- tools have no place in a text -----------------------------------------------------------


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_a_call_is_not_lost_in_a_completion(way: str) -> None:
    tool = WEATHER.metadata.to_openai_tool()
    llm = scripted(*demanded(CALL))
    try:
        response = await ask(way, llm, tools=[tool], tool_choice="required")
    except ConfigError:
        return
    assert "Paris" in str(response.additional_kwargs)
