"""Histories that others wrote, stop strings, and schemas in other providers' words."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel
from scripted_models import EITHER, WAYS, ask, called, chat, text_model
from scripts import CALL, PARIS, Turns, answer, bound, callable_names, demanded, get_weather

from glimp_integrations import ConfigError
from langchain_glimp import ChatGlimpRouter
from langchain_glimp._messages import text_of, to_messages


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


def sent_to_model(*conversation: Any, **options: Any) -> list[dict[str, Any]]:
    """What both models' templates were given."""
    llm = chat("Fine.", **options)
    assert llm.invoke([*conversation]).content == "Fine."
    assert llm.small.conversations == llm.large.conversations
    return llm.large.conversations[0]


# -- stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["Observation:", ("Observation:",), ["Observation:"]])
@pytest.mark.parametrize("way", WAYS)
async def test_one_stop_may_stand_alone(way: str, stop: Any) -> None:
    def llm(**options: Any) -> ChatGlimpRouter:
        return chat("The weather is nice.\n", "Observation: no", **options)

    for result in (
        await ask(way, llm(), stop=stop),
        await ask(way, llm().bind(stop=stop)),
        await ask(way, llm(stop=stop)),
    ):
        assert result.content == "The weather is nice.\n"
    plain = text_model("The weather is nice.\n", "Observation: no")
    assert plain.invoke("hi", stop=stop) == "The weather is nice.\n"
    assert "".join(plain.bind(stop=stop).stream("hi")) == "The weather is nice.\n"
    assert [await plain.ainvoke("hi", stop=stop)] == await plain.abatch(["hi"], stop=stop)


@pytest.mark.parametrize("way", EITHER)
async def test_a_stop_that_is_no_text_is_named(way: str) -> None:
    for stop in (7, [7], [b"x"], {"a": 1}):
        with pytest.raises(ConfigError, match="stop"):
            await ask(way, chat("x"), stop=stop)
    with pytest.raises(ConfigError, match="empty stop string"):
        await ask(way, chat("x"), stop="")


def test_an_assigned_stop_is_one_stop_and_tracers_see_it() -> None:
    llm = chat("The weather is nice.")
    llm.stop = "is"
    assert llm.stop == ["is"]
    assert llm.invoke("hi").content == "The weather "
    assert llm._get_ls_params(stop="x")["ls_stop"] == ["x"]
    assert llm._get_ls_params()["ls_stop"] == ["is"]


# -- blocks ----------------------------------------------------------------------------------

ASKED = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c1"}])


@pytest.mark.parametrize("make", [HumanMessage, SystemMessage, "tool", "chat"])
def test_blocks_are_read_as_lines(make: Any) -> None:
    makers = {
        "tool": lambda content: ToolMessage(content, tool_call_id="c1"),
        "chat": lambda content: ChatMessage(content, role="user"),
    }
    message = makers.get(make, make)(text("1", "2", "30"))
    sent = sent_to_model(HumanMessage("hi"), ASKED, message)[-1]
    assert sent["content"] == "1\n2\n30"
    strings = makers.get(make, make)(["1", "2", "30"])
    assert sent_to_model(HumanMessage("hi"), ASKED, strings)[-1]["content"] == "1\n2\n30"


def test_tokens_are_counted_of_the_text_that_is_read() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    for content in (text("1", "2", "30"), [*text("1", "2"), image, *text("30")]):
        (sent,) = to_messages([HumanMessage(content)])
        assert text_of(sent) == "1\n2\n30"
    (call_message,) = to_messages([AIMessage(text("a", "b"), tool_calls=ASKED.tool_calls)])
    assert text_of(call_message) == "ab look {}"
    (broken,) = to_messages([BROKEN])
    assert "Gra" in text_of(broken)


FOREIGN = [
    # OpenAI, Responses API
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret"},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "web_search_call", "id": "ws_1", "action": {"query": "secret"}, "status": "completed"},
    # Bedrock
    {"type": "reasoning_content", "reasoning_content": {"text": "secret", "signature": "x"}},
    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
    # Anthropic
    {"type": "thinking", "thinking": "secret", "signature": "x"},
    {"type": "redacted_thinking", "data": "secret"},
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "secret"}},
    # Google
    {"type": "executable_code", "executable_code": "secret", "language": 1},
    # LangChain's own
    {"type": "tool_call", "id": "c1", "name": "look", "args": {}},
    {"type": "tool_call_chunk", "id": "c1", "name": "look", "args": "{}", "index": 0},
    {"type": "server_tool_call", "id": "s1", "name": "web_search", "args": {"query": "secret"}},
    {"type": "server_tool_result", "tool_call_id": "s1", "status": "success", "output": "secret"},
    {"type": "non_standard", "value": {"type": "new", "data": "secret"}},
]


@pytest.mark.parametrize("block", FOREIGN, ids=lambda block: block["type"])
def test_foreign_blocks_are_private_or_repeat_a_call(block: dict[str, Any]) -> None:
    message = AIMessage([*text("I look."), block], tool_calls=ASKED.tool_calls)
    sent = sent_to_model(HumanMessage("hi"), message, ToolMessage("20 C", tool_call_id="c1"))[1]
    assert sent["content"] == "I look." and "secret" not in str(sent)
    assert [call["function"]["name"] for call in sent["tool_calls"]] == ["look"]
    assert sent["tool_calls"][0]["id"] == "c1"


@pytest.mark.parametrize("provider", ["openai", "anthropic", "bedrock_converse"])
def test_messages_come_back_through_langchains_own_blocks(provider: str) -> None:
    message = AIMessage(
        [*text("I look."), *FOREIGN[:4]],
        tool_calls=ASKED.tool_calls,
        response_metadata={"model_provider": provider},
    )
    again = AIMessage(content_blocks=message.content_blocks)
    sent = sent_to_model(HumanMessage("hi"), again, ToolMessage("20 C", tool_call_id="c1"))[1]
    assert sent["content"] == "I look." and len(sent["tool_calls"]) == 1


@pytest.mark.parametrize(
    "message",
    [
        AIMessage([{"type": "refusal", "refusal": "I cannot."}]),
        AIMessage("", additional_kwargs={"refusal": "I cannot."}),
        AIMessage([{"type": "non_standard", "value": {"type": "refusal", "refusal": "I cannot."}}]),
    ],
)
def test_a_refusal_is_what_the_model_said(message: BaseMessage) -> None:
    sent = sent_to_model(HumanMessage("hi"), message, HumanMessage("why?"))[1]
    assert sent == {"role": "assistant", "content": "I cannot."}


@pytest.mark.parametrize("kind", ["image", "audio", "video", "file"])
def test_what_only_senses_can_read_is_refused_by_name(kind: str) -> None:
    block = {"type": kind, "base64": "AAAA", "mime_type": "x/y"}
    with pytest.raises(ConfigError, match=f"message 0 holds a block of type '{kind}'"):
        chat("x").invoke([HumanMessage([*text("see"), block])])


# -- calls -----------------------------------------------------------------------------------


def broken_call(
    name: str | None = "look", args: str | None = '{"city": Gra', id: Any = "b1"
) -> Any:
    return {"name": name, "args": args, "id": id, "error": "no JSON", "type": "invalid_tool_call"}


BROKEN = AIMessage("I look.", invalid_tool_calls=[broken_call()])
ERROR = ToolMessage("Error: no JSON. Try again.", tool_call_id="b1", status="error")


@pytest.mark.parametrize("whole", [[], ASKED.tool_calls])
@pytest.mark.parametrize("way", EITHER)
async def test_a_broken_call_and_its_error_are_both_in_the_history(way: str, whole: Any) -> None:
    llm = chat("Fine.")
    call_message = AIMessage("I look.", tool_calls=whole, invalid_tool_calls=[broken_call()])
    results = [ToolMessage("20 C", tool_call_id=call["id"]) for call in whole]
    await ask(way, llm, [HumanMessage("hi"), call_message, *results, ERROR])
    for backend in (llm.small, llm.large):
        _, sent, *_, last = backend.conversations[0]
        *others, call = sent["tool_calls"]
        assert (call["id"], call["function"]["name"]) == ("b1", "look")
        assert call["function"]["arguments"] == '{"city": Gra'
        assert len(others) == len(whole)
        assert (last["role"], last["content"]) == ("tool", ERROR.content)


def test_a_broken_call_without_a_name_is_text() -> None:
    message = AIMessage("I look.", invalid_tool_calls=[broken_call(None, "<call>look(")])
    sent = sent_to_model(HumanMessage("hi"), message, ERROR)[1]
    assert sent == {"role": "assistant", "content": "I look.\n<call>look("}


def test_broken_calls_stand_where_a_template_without_tools_shows_them() -> None:
    llm = chat("Fine.", of={"template": "{{ messages }}"})
    llm.invoke([HumanMessage("hi"), BROKEN, ERROR])
    _, sent, last = llm.large.conversations[-1]
    assert sent["content"] == 'I look.\n\n```json\n{"name": "look", "arguments": {"city": Gra}\n```'
    assert last == {"role": "user", "content": f"Result of b1:\n{ERROR.content}"}


@pytest.mark.parametrize("args", [None, "", '{"a": 1}', "[1]", "no"])
@pytest.mark.parametrize("id", [None, "b1"])
def test_broken_calls_of_any_shape_are_kept(args: Any, id: Any) -> None:
    calls = [broken_call("look", args, id), broken_call("see", args, id and "b2")]
    sent = sent_to_model(HumanMessage("hi"), AIMessage("", invalid_tool_calls=calls), ERROR)[1]
    assert [call["function"]["name"] for call in sent["tool_calls"]] == ["look", "see"]


async def test_our_own_broken_call_comes_back() -> None:
    llm = chat(
        "<tool_call>\n",
        '{"name": "get_weather", "arguments": {"city": ',
        "",
        tags=True,
        supports_schema=False,
    )
    message = await ask("invoke", llm.bind_tools([get_weather]))
    (call,) = message.invalid_tool_calls
    result = ToolMessage("Error", tool_call_id=call["id"])
    sent = sent_to_model(HumanMessage("hi"), message, result)[1]
    assert call["args"] in sent["content"] or call["args"] in str(sent["tool_calls"])


def test_a_call_that_only_a_block_tells_is_a_call() -> None:
    block = {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Graz"}}
    sent = sent_to_model(
        HumanMessage("hi"), AIMessage([block]), ToolMessage("x", tool_call_id="c1")
    )[1]
    (call,) = sent["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"city": "Graz"}'}


def test_results_in_a_users_blocks_are_results() -> None:
    block = {"type": "tool_result", "tool_use_id": "c1", "content": text("1", "2")}
    sent = sent_to_model(HumanMessage("hi"), ASKED, HumanMessage([block, *text("and?")]))
    assert sent[2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "1\n2"},
        {"role": "user", "content": "and?"},
    ]


def test_functions_of_old_histories_are_tools() -> None:
    old = {"function_call": {"name": "look", "arguments": '{"city": "Graz"}'}}
    call_message = AIMessage("", additional_kwargs=old)
    _, sent, result = sent_to_model(
        HumanMessage("hi"), call_message, FunctionMessage("20 C", name="look")
    )
    assert sent["tool_calls"][0]["function"]["name"] == "look"
    assert result == {"role": "tool", "name": "look", "content": "20 C"}


def test_a_result_without_its_call_is_heard() -> None:
    lonely = ToolMessage("20 C", tool_call_id="gone", name="look")
    assert sent_to_model(HumanMessage("hi"), lonely)[-1]["content"] == "20 C"


def test_arguments_that_json_cannot_write_are_named() -> None:
    call_message = AIMessage("", tool_calls=[{"name": "look", "args": {"at": math}, "id": "1"}])
    with pytest.raises(ConfigError, match="message 1 holds a call of 'look'"):
        chat("x").invoke([HumanMessage("hi"), call_message])


@pytest.mark.parametrize("content", ["", []])
@pytest.mark.parametrize("kind", [AIMessage, AIMessageChunk])
def test_empty_messages_are_empty(kind: Any, content: Any) -> None:
    sent = sent_to_model(HumanMessage("hi"), kind(content), HumanMessage("and?"))[1]
    assert sent == {"role": "assistant", "content": ""}


def test_names_and_ids_stay_as_they_are() -> None:
    name, id_ = "Jörg <br> O'Neil\n", "call:ä/1 \u2028"
    call_message = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": id_}], name=name)
    _, sent, result = sent_to_model(
        HumanMessage("hi", name=name), call_message, ToolMessage("x", tool_call_id=id_, name=name)
    )
    assert sent["tool_calls"][0]["id"] == result["tool_call_id"] == id_
    assert sent["name"] == result["name"] == name


def test_a_developer_of_openai_keeps_its_role_until_the_template() -> None:
    sent = sent_to_model(
        SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer"}),
        HumanMessage("hi"),
    )
    assert sent[0] == {"role": "developer", "content": "Be brief."}


# -- schemas ---------------------------------------------------------------------------------


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
ANNA = {"name": "Anna", "age": 34}
JSON = ['{"name": "Anna", ', '"age": 34}']
TOLD = {"name": "person", "description": "Somebody."}
TOOLS = {
    "anthropic": {**TOLD, "input_schema": SCHEMA},
    "anthropic, typed": {**TOLD, "type": "custom", "input_schema": SCHEMA},
    "bedrock": {"toolSpec": {**TOLD, "inputSchema": {"json": SCHEMA}}},
    "openai, function": {**TOLD, "parameters": SCHEMA},
    "openai, tool": {"type": "function", "function": {**TOLD, "parameters": SCHEMA}},
    "openai, responses": {"type": "function", **TOLD, "parameters": SCHEMA},
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_tools_dictionary_as_schema_constrains_its_properties(tool: Any) -> None:
    llm = chat(*answer(JSON))
    assert llm.with_structured_output(tool).invoke("hi") == ANNA
    (request,) = bound(llm.large)
    assert request.schema["required"] == ["name", "age"]
    assert request.schema["properties"].keys() == {"name", "age"}
    assert '"description": "Somebody."' in llm.large.requests[0].prompt
    call = [f'{{"name": "person", "arguments": {"".join(JSON)}', "}"]
    called_llm = chat(*demanded(call))
    result = called_llm.with_structured_output(tool, method="function_calling").invoke("hi")
    assert result == ANNA
    assert callable_names(bound(called_llm.large)[0].schema) == ["person"]


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_tools_dictionary_can_be_bound_as_a_tool(tool: Any) -> None:
    given = json.dumps(tool)
    llm = chat(*demanded([f'{{"name": "person", "arguments": {"".join(JSON)}', "}"]))
    message = llm.bind_tools([tool], tool_choice="any").invoke("hi")
    assert called(message) == [("person", ANNA)]
    assert json.dumps(tool) == given, "and is left as it was"


def test_a_tool_without_parameters_as_schema_is_an_empty_object() -> None:
    assert chat(*answer(["{}"])).with_structured_output({"name": "nothing"}).invoke("hi") == {}


MORE = {"parallel_tool_calls": False, "tool_choice": "auto", "strict": None}


@pytest.mark.parametrize("more", [{}, MORE])
@pytest.mark.parametrize("schema", [Person, SCHEMA | {"title": "person"}])
async def test_structured_output_with_tools_answers_or_calls(schema: Any, more: Any) -> None:
    expected = Person(**ANNA) if schema is Person else ANNA
    for text_of_reply, parsed, calls in ((JSON, expected, []), (CALL, None, [PARIS])):
        llm = chat(*text_of_reply, "")
        both = llm.with_structured_output(schema, tools=[get_weather], include_raw=True, **more)
        for result in (both.invoke("hi"), await both.ainvoke("hi")):
            assert (result["parsed"], result["parsing_error"]) == (parsed, None)
            assert called(result["raw"]) == calls
        alone = llm.with_structured_output(schema, tools=[get_weather], **more)
        assert alone.invoke("hi") == parsed
        assert [*alone.stream("hi")][-1] == parsed
        assert callable_names(bound(llm.large)[0].schema) == ["get_weather"]


def test_structured_output_as_a_call_among_tools() -> None:
    person = [f'{{"name": "Person", "arguments": {"".join(JSON)}', "}"]
    for call, parsed in ((person, Person(**ANNA)), (CALL, None)):
        llm = chat(*demanded(call))
        call_message = llm.with_structured_output(
            Person, method="function_calling", tools=[get_weather]
        )
        assert call_message.invoke("hi") == parsed
        assert callable_names(bound(llm.large)[0].schema) == ["Person", "get_weather"]


@pytest.mark.parametrize("more", [{"tool_choice": "any"}, {"parallel_tool_calls": True}, MORE])
def test_arguments_of_calls_go_before_those_of_the_method(more: Any) -> None:
    llm = chat(*demanded([f'{{"name": "Person", "arguments": {"".join(JSON)}', "}"]))
    options = {name: value for name, value in more.items() if value != "auto"}
    call_message = llm.with_structured_output(Person, method="function_calling", **options)
    assert call_message.invoke("hi") == Person(**ANNA)


def test_a_second_response_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="with_structured_output makes response_format"):
        chat("x").with_structured_output(Person, response_format={"type": "json_object"})


# -- agents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_agent_that_has_to_call_ends_with_its_structure(way: str) -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.structured_output import ToolStrategy

    wrong = ['{"name": "Person", "arguments": {"name": "Anna", "age": "old"}', "}"]
    right = [f'{{"name": "Person", "arguments": {"".join(JSON)}', "}"]
    backend = Turns(demanded(CALL), demanded(wrong), demanded(right), name="both")
    llm = ChatGlimpRouter(small=backend, large=backend, temperature=0)
    agent = agents.create_agent(llm, [get_weather], response_format=ToolStrategy(Person))
    given = {"messages": [("user", "hi")]}
    state = agent.invoke(given) if way == "invoke" else await agent.ainvoke(given)
    assert state["structured_response"] == Person(**ANNA)
    kinds = [message.type for message in state["messages"]]
    assert kinds == ["human", "ai", "tool", "ai", "tool", "ai", "tool"]
    last = backend.conversations[-1]
    assert "Failed to parse structured output" in last[-1]["content"], "the model is told"
    assert last[-2]["tool_calls"][0]["function"]["name"] == "Person"


# -- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
@pytest.mark.parametrize("way", WAYS)
async def test_everything_that_is_reported_is_strict_json(way: str, threshold: float) -> None:
    events: list[Any] = []

    class Watch(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            events.append(kwargs["invocation_params"])

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            events.append(data)

    llm = chat("Fine.", threshold=threshold, step_events=True)
    config = {"callbacks": [Watch()]}
    message = await ask(way, llm, "hi", config=config)
    events += [message.response_metadata, message.usage_metadata, llm._identifying_params]
    assert len(events) > 3
    for event in events:
        json.dumps(event, allow_nan=False)


@pytest.mark.filterwarnings("ignore:.*`load`:langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("threshold", [math.inf, -math.inf, 0.5])
def test_a_stored_model_is_strict_json_and_comes_back(threshold: float) -> None:
    llm = ChatGlimpRouter(
        small="openai:S@http://127.0.0.1:9/v1",
        large="openai:L@http://127.0.0.1:9/v1",
        threshold=threshold,
        timeout=math.inf,
    )
    stored = dumpd(llm)
    assert json.loads(dumps(llm)) == json.loads(json.dumps(stored, allow_nan=False))
    again = load(stored, allowed_objects=[ChatGlimpRouter], valid_namespaces=["langchain_glimp"])
    assert (again.threshold, again.timeout) == (threshold, math.inf)
