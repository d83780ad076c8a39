"""Tools through LlamaIndex: what the models are asked for, and the calls that come back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llama_index.core.agent.react import ReActChatFormatter, ReActOutputParser
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from scripted_llms import (
    AGENTS,
    CLOCK,
    EITHER,
    HI,
    TOOLS,
    WEATHER,
    calls,
    replies,
    scripted,
    thoughts,
)
from scripts import (
    CALL,
    NOON,
    PARIS,
    REASONING,
    SPOKEN_TEXT,
    bound,
    callable_names,
    demanded,
    of_own_accord,
    shown_tools,
)

from glimp_integrations import ConfigError

WITH_TOOLS = [f"{name}_with_tools" for name in ("chat", "stream_chat", "achat", "astream_chat")]
BROKEN = ["<tool_call>", '\n{"name": "get_weather", "arguments": {"city": Paris', "\n</tool_call>"]
NAMELESS = ["<tool_call>", '\n{"city": "Paris"}', "\n</tool_call>"]
REACT = ['Thought: I need it.\nAction: get_weather\nAction Input: {"city": "Paris"}']
# LlamaIndex hands None on where its own agent wants these two.
AS_REACT = {"react_chat_formatter": ReActChatFormatter(), "output_parser": ReActOutputParser()}


async def tooled(way: str, llm: Any, tools: Any = TOOLS, **kwargs: Any) -> Any:
    """The last response of a call with tools."""
    return (await tooled_replies(way, llm, tools, **kwargs))[-1]


async def tooled_replies(way: str, llm: Any, tools: Any = TOOLS, **kwargs: Any) -> list[Any]:
    return await replies(way, llm, tools, **{"user_msg": "hi", **kwargs})


# -- what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize("way", WITH_TOOLS)
@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"tool_required": True}, ["get_weather", "clock"]),
        ({"tool_choice": "required"}, ["get_weather", "clock"]),
        ({"tool_choice": "any"}, ["get_weather", "clock"]),
        ({"tool_choice": "get_weather"}, ["get_weather"]),
        ({"tool_choice": "get_weather", "tool_required": True}, ["get_weather"]),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            ["get_weather"],
        ),
    ],
)
async def test_a_call_is_demanded(way: str, asked: Any, names: list[str]) -> None:
    llm = scripted(*demanded(CALL))
    response = await tooled(way, llm, **asked)
    (selection,) = llm.get_tool_calls_from_response(response)
    assert (selection.tool_name, selection.tool_kwargs) == PARIS
    assert (response.message.content, thoughts(response.message)) == ("", [REASONING])
    assert response.raw["finish_reason"] == "tool_calls"
    assert callable_names(bound(llm.large)[0].schema) == names
    shown = [tool["function"]["name"] for tool in shown_tools(llm.small)]
    assert shown == ["get_weather", "clock"], "all of them are shown in any case"


@pytest.mark.parametrize("way", WITH_TOOLS)
@pytest.mark.parametrize("asked", [{}, {"tool_choice": "auto"}, {"tool_choice": None}])
async def test_left_alone_the_model_may_answer(way: str, asked: Any) -> None:
    llm = scripted("No tool needed.")
    response = await tooled(way, llm, **asked)
    assert response.message.content == "No tool needed."
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match=r"It reads: 'No tool needed\.'"):
        llm.get_tool_calls_from_response(response)
    assert len(shown_tools(llm.large)) == 2 and bound(llm.large) == []


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_with_the_choice_none_no_tool_is_shown_or_read(way: str) -> None:
    llm = scripted(*of_own_accord(CALL, supports_schema=False))
    response = await tooled(way, llm, tool_choice="none")
    assert shown_tools(llm.small) == []
    assert calls(response.message) == []
    assert response.message.content == "".join(of_own_accord(CALL, supports_schema=False))


@pytest.mark.parametrize("supports_schema", [True, False])
@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_several_calls_need_to_be_allowed(way: str, supports_schema: bool) -> None:
    script = [
        *of_own_accord(CALL, supports_schema=supports_schema),
        *of_own_accord(NOON, supports_schema=supports_schema),
    ]
    llm = scripted(*script, supports_schema=supports_schema)
    both = await tooled(way, llm, allow_parallel_tool_calls=True)
    assert [call[0] for call in calls(both.message)] == ["get_weather", "clock"]
    ids = [call.tool_id for call in llm.get_tool_calls_from_response(both)]
    assert len(set(ids)) == 2 and all(re.fullmatch("[A-Za-z0-9]{9}", i) for i in ids)
    assert calls((await tooled(way, llm)).message) == [PARIS]


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_strict_calls_need_a_backend_that_supports_schemas(way: str) -> None:
    free, strict = scripted("x", supports_schema=False), scripted(*of_own_accord(CALL))
    with pytest.raises(ConfigError, match="strict=True needs a backend that supports"):
        await tooled(way, free, strict=True)
    assert calls((await tooled(way, strict, strict=True)).message) == [PARIS]
    assert len(bound(strict.large)) == 1


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_without_tools_there_is_nothing_to_require(way: str) -> None:
    with pytest.raises(ConfigError, match="there are no tools"):
        await tooled(way, scripted("x"), [], tool_required=True)
    assert (await tooled(way, scripted("Hello."), [])).message.content == "Hello."


@pytest.mark.parametrize("choice", ["get_weather", "required"])
async def test_without_tools_there_is_nothing_to_choose(choice: str) -> None:
    with pytest.raises(ConfigError, match=r"there are no|none of the tools"):
        await tooled("chat_with_tools", scripted("x"), [], tool_choice=choice)


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_a_choice_that_names_no_tool_is_refused(way: str) -> None:
    with pytest.raises(ConfigError, match="'get_wether', which is none of the tools"):
        await tooled(way, scripted("x"), tool_choice="get_wether")
    with pytest.raises(ConfigError, match="several tools are called 'clock'"):
        await tooled(way, scripted("x"), [CLOCK, CLOCK])


def test_tools_are_shown_with_their_schemas() -> None:
    def book(city: str, nights: int = 1) -> str:
        """Books a room."""
        return city

    llm = scripted("x")
    llm.chat_with_tools([FunctionTool.from_defaults(book)], "hi")
    (shown,) = shown_tools(llm.large)
    function = shown["function"]
    assert function["name"] == "book" and "Books a room." in function["description"]
    assert function["parameters"]["properties"]["nights"]["default"] == 1
    assert function["parameters"]["required"] == ["city"]


def test_a_long_description_is_no_error() -> None:
    long = FunctionTool.from_defaults(lambda city: city, name="look", description="word " * 500)
    assert scripted("x").chat_with_tools([long], "hi").message.content == "x"


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_the_history_stays_as_it_was(way: str) -> None:
    llm = scripted("x")
    history = [ChatMessage("Be brief.", role="system"), ChatMessage("hi")]
    before = [message.model_dump() for message in history]
    await tooled(way, llm, user_msg=ChatMessage("and now?"), chat_history=history)
    assert [message.model_dump() for message in history] == before
    said = [(m["role"], m["content"]) for m in llm.large.conversations[0]]
    assert said == [("system", "Be brief."), ("user", "hi"), ("user", "and now?")]
    await tooled(way, llm, user_msg=None, chat_history=history)
    assert len(llm.large.conversations[-1]) == 2


def test_settings_go_beside_the_tools() -> None:
    llm = scripted(*demanded(CALL))
    llm.chat_with_tools(TOOLS, "hi", tool_required=True, answer_by="small", max_tokens=700)
    assert (bound(llm.small)[0].max_tokens, bound(llm.large)) == (700, [])
    with pytest.raises(ConfigError, match="'functions'"):
        llm.chat_with_tools(TOOLS, "hi", functions=[])


# -- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_calls_are_blocks_after_the_text(way: str) -> None:
    response = await tooled(way, scripted("Look.", *of_own_accord(CALL)))
    kinds = [block.block_type for block in response.message.blocks]
    assert kinds == ["thinking", "text", "tool_call"]
    assert (response.message.content, calls(response.message)) == ("Look.", [PARIS])
    assert "tool_call_id" not in response.message.additional_kwargs


@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_a_model_without_think_tags_calls_after_its_chain(way: str) -> None:
    response = await tooled(way, scripted("<tool_call>", "\n", *CALL, tags=False))
    assert calls(response.message) == [PARIS]
    assert thoughts(response.message) == [SPOKEN_TEXT]


@pytest.mark.parametrize("way", ["stream_chat_with_tools", "astream_chat_with_tools"])
async def test_arguments_grow_in_a_stream(way: str) -> None:
    llm = scripted("Look.", *of_own_accord(CALL), *of_own_accord(NOON))
    result = await tooled_replies(way, llm, allow_parallel_tool_calls=True)
    grown = [calls(response.message) for response in result if calls(response.message)]
    assert grown[:3] == [[("get_weather", text)] for text in ("", '{"city": ', '{"city": "Paris"}')]
    assert grown[-1] == [PARIS, ("clock", {})], "whole calls are data"
    assert all(response.delta == "" for response in result if calls(response.message))
    selections: list[list[ToolSelection]] = [
        llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        for response in result
    ]
    told = [[call.tool_kwargs for call in some] for some in selections if some]
    assert told[0] == [{}] and told[2] == [{"city": "Paris"}]
    assert told[-1] == [{"city": "Paris"}, {}]
    ids = {some[0].tool_id for some in selections if some}
    assert len(ids) == 1, "a call keeps its id"


@pytest.mark.parametrize("way", ["stream_chat_with_tools", "astream_chat_with_tools"])
async def test_calls_that_are_out_stay_as_they_were(way: str) -> None:
    llm = scripted(*of_own_accord(CALL))
    then, kept = [], []
    if way.startswith("a"):
        async for response in await llm.astream_chat_with_tools(TOOLS, "hi"):
            then.append(response.model_dump_json())
            kept.append(response)
    else:
        for response in llm.stream_chat_with_tools(TOOLS, "hi"):
            then.append(response.model_dump_json())
            kept.append(response)
    assert any(calls(response.message) for response in kept[:-1])
    assert [response.model_dump_json() for response in kept] == then


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"city": "Paris"}, {"city": "Paris"}),
        ('{"city": "Paris"}', {"city": "Paris"}),
        ('{"city": "Par"', {"city": "Par"}),
        ('{"city": "Par', {"city": None}),
        ("", {}),
        ("[1, 2]", {}),
        ("Paris", {}),
    ],
)
def test_arguments_are_data_as_far_as_they_go(written: Any, read: Any) -> None:
    llm = scripted("x")
    response = llm.chat(HI)
    response.message.blocks.append(ToolCallBlock(tool_name="get_weather", tool_kwargs=written))
    (selection,) = llm.get_tool_calls_from_response(response)
    assert (selection.tool_kwargs, selection.tool_id) == (read, "")


# -- calls that cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "name"), [(BROKEN, "get_weather"), (NAMELESS, None)], ids=["broken", "nameless"]
)
@pytest.mark.parametrize("way", WITH_TOOLS)
async def test_a_broken_call_is_reported_and_not_called(
    way: str, script: list[str], name: str | None
) -> None:
    llm = scripted("Look.", *script, supports_schema=False)
    response = await tooled(way, llm)
    assert (calls(response.message), response.message.content) == ([], "Look.")
    (broken,) = response.message.additional_kwargs["invalid_tool_calls"]
    assert (broken["name"], "Paris" in broken["text"]) == (name, True)
    (told,) = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    assert told.tool_id == broken["id"] and told.tool_kwargs == {}
    assert told.tool_name.startswith(f"{name or 'call'} (") and broken["error"] in told.tool_name
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=None) == []
    with pytest.raises(ValueError, match=f"It meant to call {name or 'something'} .*Paris"):
        llm.get_tool_calls_from_response(response)


@pytest.mark.parametrize("way", ["chat_with_tools", "achat_with_tools"])
async def test_a_budget_inside_a_call_leaves_no_call(way: str) -> None:
    response = await tooled(way, scripted(*demanded(CALL)), tool_required=True, max_tokens=2)
    assert calls(response.message) == []
    assert response.raw["finish_reason"] == "length"
    assert response.message.additional_kwargs["invalid_tool_calls"][0]["name"] == "get_weather"


def test_a_message_with_a_broken_call_can_be_answered() -> None:
    message = scripted("Look.", *BROKEN, supports_schema=False).chat_with_tools(TOOLS, "hi").message
    after = scripted("I see.")
    assert after.chat([*HI, message, ChatMessage("What?")]).message.content == "I see."
    assert after.large.conversations[0][1] == {"role": "assistant", "content": "Look."}


# -- predict_and_call ------------------------------------------------------------------------


async def _predict(way: str, llm: Any, tools: Any, **kwargs: Any) -> Any:
    result = getattr(llm, way)(tools, "hi", **kwargs)
    return await result if way.startswith("a") else result


PREDICTS = ["predict_and_call", "apredict_and_call"]


@pytest.mark.parametrize("way", PREDICTS)
async def test_tools_are_called(way: str) -> None:
    one = await _predict(way, scripted(*demanded(CALL)), TOOLS, tool_required=True)
    assert str(one) == "Sunny in Paris."
    assert "Paris" in str(one.sources[0].raw_input), "by name or not, as the version of core has it"
    both = scripted(*of_own_accord(CALL), *of_own_accord(NOON))
    result = await _predict(way, both, TOOLS, allow_parallel_tool_calls=True)
    assert str(result) == "Sunny in Paris.\n\nnoon"
    alone = await _predict(way, scripted("Hello."), TOOLS, error_on_no_tool_call=False)
    assert (str(alone), alone.sources) == ("Hello.", [])


@pytest.mark.parametrize("way", PREDICTS)
async def test_a_broken_call_is_not_carried_out(way: str) -> None:
    carried_out = []

    def get_weather(city: str) -> str:
        carried_out.append(city)
        return city

    tools = [FunctionTool.from_defaults(get_weather)]
    llm = scripted(*BROKEN, supports_schema=False)
    with pytest.raises(ValueError, match="It meant to call get_weather"):
        await _predict(way, llm, tools)
    assert (await _predict(way, llm, tools, error_on_no_tool_call=False)).sources == []
    assert carried_out == []
    await _predict(way, scripted(*of_own_accord(CALL)), tools)
    assert carried_out == ["Paris"]


@pytest.mark.filterwarnings(*AGENTS)
@pytest.mark.parametrize("way", PREDICTS)
async def test_without_function_calling_a_call_is_spelled_out(way: str) -> None:
    llm = scripted(*REACT, is_function_calling_model=False)
    result = await _predict(way, llm, [WEATHER], **AS_REACT)
    assert str(result) == "Sunny in Paris."
    assert shown_tools(llm.large) == [], "ReAct tells of tools in words"
    assert "get_weather" in llm.large.conversations[-1][0]["content"]


@pytest.mark.parametrize("way", EITHER)
async def test_json_that_names_no_tool_is_text(way: str) -> None:
    text = '{"name": "Anna", "arguments": {"age": 34}}'
    response = await tooled(f"{way}_with_tools", scripted(text))
    assert (response.message.content, calls(response.message)) == (text, [])
    assert response.message.additional_kwargs == {}
