"""Answers as data: ``with_structured_output``, ``response_format`` and agents that use it."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel, Field, RootModel, ValidationError
from scripted_models import WAYS, ask, called, chat, text_model
from scripts import (
    CALL,
    REASONING,
    SPOKEN_TEXT,
    Turns,
    answer,
    bound,
    callable_names,
    demanded,
    get_weather,
)

from glimp_integrations import ConfigError
from langchain_glimp import ChatGlimpRouter


class Person(BaseModel):
    """Somebody."""

    name: str = Field(description="Given name")
    age: int


class PersonDict(TypedDict):
    """Somebody."""

    name: str
    age: int


class Node(BaseModel):
    """A tree."""

    name: str
    children: list[Node] = []


class Numbers(RootModel[list[int]]):
    """Some numbers."""


PROPERTIES = {"name": {"type": "string"}, "age": {"type": "integer"}}
SCHEMA = {
    "title": "Somebody",
    "type": "object",
    "properties": PROPERTIES,
    "required": ["name", "age"],
}
JSON = ['{"name": "An', 'na", "age"', ": 3", "4}"]
ANNA = {"name": "Anna", "age": 34}
METHODS = ["json_schema", "function_calling", "json_mode"]
KINDS = {
    "pydantic": (Person, "Person", Person(**ANNA)),
    "TypedDict": (PersonDict, "PersonDict", ANNA),
    "JSON schema": (SCHEMA, "Somebody", ANNA),
}
WANTED = {"type": "json_schema", "json_schema": {"name": "Somebody", "schema": SCHEMA}}


def reply(
    method: str, name: str, text: list[str] = JSON, *, supports_schema: bool = True
) -> list[str]:
    """What a model writes that does as it is told."""
    if method == "function_calling":
        call = [f'{{"name": "{name}", "arguments": ', *text, "}"]
        return demanded(call, supports_schema=supports_schema)
    return answer(text, supports_schema=supports_schema)


def structured(method: str, kind: str, *, supports_schema: bool = True, **options: Any) -> Any:
    schema, name, _ = KINDS[kind]
    llm = chat(
        *reply(method, name, supports_schema=supports_schema),
        supports_schema=supports_schema,
        **options,
    )
    return llm, llm.with_structured_output(schema, method=method)


def sent(schema: Any, text: list[str] = JSON, **options: Any) -> tuple[Any, dict[str, Any]]:
    """What came back for a schema, and the schema the answer was bound to."""
    llm = chat(*answer(text))
    result = llm.with_structured_output(schema, **options).invoke("hi")
    (request,) = bound(llm.large)
    return result, dict(request.schema)


# -- every schema, every method --------------------------------------------------------------


@pytest.mark.parametrize("supports_schema", [True, False], ids=["bound", "free"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_becomes_data(method: str, kind: str, supports_schema: bool) -> None:
    _, llm = structured(method, kind, supports_schema=supports_schema)
    expected = KINDS[kind][2]
    result = llm.invoke("hi")
    assert result == await llm.ainvoke("hi") == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_chain_of_thought_stays_free_and_routed(method: str) -> None:
    llm, _ = structured(method, "pydantic")
    both = llm.with_structured_output(Person, method=method, include_raw=True).invoke("hi")
    raw = both["raw"]
    assert raw.additional_kwargs["reasoning_content"] == REASONING
    steps = raw.response_metadata["glimprouter"]["steps"]
    assert [(s["author"], s["kind"]) for s in steps] == [
        ("small", "reasoning"),
        ("large", "reasoning"),
        ("large", "answer"),
    ]
    assert bound(llm.small) == [], "thoughts are not bound"
    (request,) = bound(llm.large)
    assert REASONING in request.prompt


@pytest.mark.parametrize("kind", KINDS)
def test_models_without_think_tags_speak_first(kind: str) -> None:
    schema, name, expected = KINDS[kind]
    llm = chat(*reply("json_schema", name), tags=False)
    both = llm.with_structured_output(schema, include_raw=True).invoke("hi")
    assert both["parsed"] == expected
    assert both["raw"].content == "".join(JSON)
    assert both["raw"].additional_kwargs["reasoning_content"].startswith(SPOKEN_TEXT)


@pytest.mark.parametrize("method", METHODS)
def test_content_blocks_are_read_too(method: str) -> None:
    _, llm = structured(method, "pydantic", output_version="v1")
    assert llm.invoke("hi") == Person(**ANNA)
    assert list(llm.stream("hi"))[-1] == Person(**ANNA)


# -- what the answer is bound to -------------------------------------------------------------


def test_the_answer_is_constrained_to_the_schema() -> None:
    for kind in KINDS:
        llm, structured_llm = structured("json_schema", kind)
        structured_llm.invoke("hi")
        (request,) = bound(llm.large)
        schema = request.schema
        assert schema["required"] == ["name", "age"]
        assert {name: p["type"] for name, p in schema["properties"].items()} == {
            "name": "string",
            "age": "integer",
        }
        assert schema["additionalProperties"] is False
        assert request.prompt.endswith("</think>\n\n```json\n"), "a lead only the model sees"


def test_function_calling_demands_one_call_of_this_name() -> None:
    llm, structured_llm = structured("function_calling", "pydantic")
    structured_llm.invoke("hi")
    (request,) = bound(llm.large)
    assert callable_names(request.schema) == ["Person"]
    assert request.prompt.endswith("<tool_call>\n")
    both = llm.with_structured_output(Person, method="function_calling", include_raw=True)
    assert called(both.invoke("hi")["raw"]) == [("Person", ANNA)]


def test_json_mode_takes_any_object() -> None:
    llm, structured_llm = structured("json_mode", "pydantic")
    structured_llm.invoke("hi")
    (request,) = bound(llm.large)
    assert request.schema["type"] == "object"
    assert "properties" not in request.schema
    assert "JSON schema" not in request.prompt, "the conversation itself says which"


def test_both_models_are_shown_the_schema() -> None:
    llm, structured_llm = structured("json_schema", "pydantic")
    structured_llm.invoke([SystemMessage("Be brief."), HumanMessage("Who?")])
    for backend in (llm.small, llm.large):
        system, user = backend.conversations[0]
        assert system["content"].startswith("Be brief.\n\nFirst think")
        shown = json.loads(system["content"].splitlines()[-1])
        assert shown["properties"]["name"]["description"] == "Given name"
        assert user["content"] == "Who?"


def test_the_conversation_may_stay_as_it_is() -> None:
    llm, structured_llm = structured("json_schema", "pydantic", show_schema=False)
    assert structured_llm.invoke("Who?") == Person(**ANNA)
    assert llm.large.conversations == [[{"role": "user", "content": "Who?"}]]
    assert bound(llm.large)[0].schema["required"] == ["name", "age"]
    shown, _ = structured("json_schema", "pydantic")
    shown.with_structured_output(Person, show_schema=False).invoke("Who?")
    assert shown.large.conversations == llm.large.conversations, "for one call, too"


def test_settings_are_bound_with_the_schema() -> None:
    llm, _ = structured("json_schema", "pydantic")
    both = llm.with_structured_output(Person, include_raw=True, answer_by="small", threshold=-1)
    steps = both.invoke("hi")["raw"].response_metadata["glimprouter"]["steps"]
    assert [step["author"] for step in steps] == ["large", "large", "small"]


def test_a_recursive_schema_stays_one() -> None:
    text = ['{"name": "a", "children": [{"name": "b", ', '"children": []}]}']
    result, schema = sent(Node, text)
    assert result == Node(name="a", children=[Node(name="b")])
    root = resolved(schema, schema)
    items = resolved(root["properties"]["children"]["items"], schema)
    assert items["properties"]["name"]["type"] == "string", "children are bound as well"


def resolved(part: Any, schema: Any) -> Any:
    return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


@pytest.mark.parametrize(
    ("root", "text"),
    [
        pytest.param({"type": "array", "items": {"type": "integer"}}, "[1, 2]", id="array"),
        pytest.param({"enum": ["red", "blue"]}, '"red"', id="enum"),
        pytest.param(
            {
                "anyOf": [
                    {"type": "object", "properties": {"cat": {"type": "string"}}},
                    {"type": "object", "properties": {"dog": {"type": "string"}}},
                ]
            },
            '{"dog": "Rex"}',
            id="anyOf",
        ),
        pytest.param(
            {"$ref": "#/$defs/pet", "$defs": {"pet": {"properties": {"cat": {"type": "string"}}}}},
            '{"cat": "Tom"}',
            id="$ref",
        ),
    ],
)
def test_a_schema_of_any_root_constrains_the_answer(root: dict[str, Any], text: str) -> None:
    result, schema = sent({"title": "Root", **root}, [text])
    assert result == json.loads(text)
    (keyword,) = {"items", "enum", "anyOf", "$ref"} & set(root)
    assert keyword in schema, "not dropped in silence"


def test_a_root_model_is_a_schema() -> None:
    result, schema = sent(Numbers, ["[1, ", "2]"])
    assert result == Numbers([1, 2])
    assert schema["items"] == {"type": "integer"}


def test_a_json_schema_needs_no_title_where_no_tool_is_made_of_it() -> None:
    untitled = {name: value for name, value in SCHEMA.items() if name != "title"}
    result, schema = sent(untitled)
    assert result == ANNA
    assert schema["properties"] == PROPERTIES


def test_openai_s_wrapping_of_a_schema_is_unwrapped() -> None:
    # As langchain-openai takes it: the value of "json_schema" in a response format.
    result, schema = sent({"name": "Somebody", "schema": SCHEMA, "strict": True})
    assert result == ANNA
    assert schema["properties"] == PROPERTIES


# -- raw answers and broken ones -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
async def test_raw_answers_come_along(method: str, kind: str) -> None:
    schema, _, expected = KINDS[kind]
    llm, _ = structured(method, kind)
    both = await llm.with_structured_output(schema, method=method, include_raw=True).ainvoke("hi")
    assert set(both) == {"raw", "parsed", "parsing_error"}
    assert (both["parsed"], both["parsing_error"]) == (expected, None)
    assert both["raw"].usage_metadata["output_tokens"] > 0
    reason = "tool_calls" if method == "function_calling" else "stop"
    assert both["raw"].response_metadata["finish_reason"] == reason


@pytest.mark.parametrize("kind", KINDS)
def test_broken_json_is_a_parsing_error(kind: str) -> None:
    schema = KINDS[kind][0]
    llm = chat(*answer(["Anna is 34."], supports_schema=False), supports_schema=False)
    both = llm.with_structured_output(schema, include_raw=True).invoke("hi")
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], OutputParserException)
    assert both["raw"].content == "Anna is 34."
    with pytest.raises(OutputParserException):
        llm.with_structured_output(schema).invoke("hi")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_was_cut_off_is_not_completed(kind: str) -> None:
    llm = chat(*answer(['{"name": "An', 'na", "age"', ": 3", "4}"]), max_tokens=3)
    both = llm.with_structured_output(KINDS[kind][0], include_raw=True).invoke("hi")
    assert both["raw"].content.startswith('{"name": "Anna"')
    assert both["parsed"] is None
    with pytest.raises(OutputParserException, match="max_tokens"):
        list(llm.with_structured_output(KINDS[kind][0]).stream("hi"))


def test_json_of_another_shape_is_a_parsing_error_of_pydantic_classes() -> None:
    for method in METHODS:
        llm = chat(*reply(method, "Person", ['{"name": "Anna"}']))
        both = llm.with_structured_output(Person, method=method, include_raw=True).invoke("hi")
        assert both["parsed"] is None
        assert "age" in str(both["parsing_error"])
        with pytest.raises((OutputParserException, ValidationError)):
            llm.with_structured_output(Person, method=method).invoke("hi")


def test_a_broken_call_is_no_data_and_nothing_raises() -> None:
    broken = reply("function_calling", "Person", ['{"name": Anna}'], supports_schema=False)
    llm = chat(*broken, supports_schema=False)
    both = llm.with_structured_output(Person, method="function_calling", include_raw=True).invoke(
        "hi"
    )
    assert both["parsed"] is None
    assert [c["name"] for c in both["raw"].invalid_tool_calls] == ["Person"]


# -- mistakes --------------------------------------------------------------------------------


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match="method is 'json_scheme'; expected 'json_schema'"):
        chat("x").with_structured_output(Person, method="json_scheme")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_missing_schema_is_named(method: Any) -> None:
    with pytest.raises(ConfigError, match=f"method '{method}' needs a schema"):
        chat("x").with_structured_output(method=method)


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_json_mode_needs_no_schema(way: str) -> None:
    llm = chat(*answer(JSON)).with_structured_output(method="json_mode")
    result = llm.invoke("hi") if way == "invoke" else list(llm.stream("hi"))[-1]
    assert result == ANNA


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_keyword_no_grammar_can_express_is_named_with_strict(method: Any) -> None:
    schema = {
        "title": "Numbers",
        "type": "object",
        "properties": {"all": {"type": "array", "uniqueItems": True}},
    }
    llm = chat("x")
    for way in ("invoke", "astream"):
        with pytest.raises(ConfigError, match="uniqueItems"):
            await ask(way, llm.with_structured_output(schema, method=method, strict=True))
    assert llm.small.requests == llm.large.requests == []


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_strict_needs_a_backend_that_supports_schemas(method: Any) -> None:
    free = chat(*reply(method, "Person", supports_schema=False), supports_schema=False)
    with pytest.raises(ConfigError, match="strict=True needs a backend"):
        free.with_structured_output(Person, method=method, strict=True).invoke("hi")
    llm = chat(*reply(method, "Person"))
    strict = llm.with_structured_output(Person, method=method, strict=True)
    assert strict.invoke("hi") == Person(**ANNA)
    assert len(bound(llm.large)) == 1


# -- streams ---------------------------------------------------------------------------------

PARTS = [{"name": "An"}, {"name": "Anna"}, {"name": "Anna", "age": 3}, ANNA]


@pytest.mark.parametrize("kind", ["TypedDict", "JSON schema"])
@pytest.mark.parametrize("method", METHODS)
async def test_dictionaries_stream_as_they_grow(method: str, kind: str) -> None:
    _, llm = structured(method, kind)
    parts = list(llm.stream("hi"))
    assert parts == [part async for part in llm.astream("hi")]
    assert [part for part in parts if part] == PARTS


@pytest.mark.parametrize("method", METHODS)
def test_pydantic_objects_stream_once_they_are_valid(method: str) -> None:
    _, llm = structured(method, "pydantic")
    parts = [part for part in llm.stream("hi") if part is not None]
    assert parts == [Person(name="Anna", age=3), Person(**ANNA)]


def test_raw_answers_stream_too() -> None:
    llm, _ = structured("json_schema", "TypedDict")
    parts = list(llm.with_structured_output(PersonDict, include_raw=True).stream("hi"))
    assert {key for part in parts for key in part} == {"raw", "parsed", "parsing_error"}
    assert [p["parsed"] for p in parts if p.get("parsed")][-1] == ANNA


# -- callbacks -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_callbacks_see_the_requested_format(way: str, method: str) -> None:
    class Seen(BaseCallbackHandler):
        options: Any = None

        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            self.options = kwargs["options"]

    seen = Seen()
    _, llm = structured(method, "TypedDict")
    if way == "invoke":
        llm.invoke("hi", config={"callbacks": [seen]})
    else:
        list(llm.stream("hi", config={"callbacks": [seen]}))
    shown = seen.options["ls_structured_output_format"]
    assert shown["kwargs"]["method"] == method
    assert shown["schema"]["properties"].keys() == {"name", "age"}


# -- response_format -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_response_format_is_taken_in_a_call(way: str) -> None:
    llm = chat(*answer(JSON))
    message = await ask(way, llm, response_format=WANTED)
    assert message.content == "".join(JSON)
    assert message.additional_kwargs["reasoning_content"] == REASONING
    assert bound(llm.large)[0].schema["properties"] == PROPERTIES


@pytest.mark.parametrize("expected", [{"type": "json_object"}, "json_object"])
def test_any_object_is_taken_in_a_call(expected: Any) -> None:
    llm = chat(*answer(JSON))
    assert json.loads(llm.invoke("hi", response_format=expected).text) == ANNA
    assert bound(llm.large)[0].schema["type"] == "object"


@pytest.mark.parametrize("response_format", [{"type": "text"}, "text", None])
def test_text_is_what_there_is_anyway(response_format: Any) -> None:
    llm = chat("Anna is 34.")
    assert llm.bind(response_format=response_format).invoke("hi").content == "Anna is 34."
    assert bound(llm.large) == []


@pytest.mark.parametrize("make", [chat, text_model])
@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": [SCHEMA]},
        {"type": "yaml"},
        "yaml",
        Person,
        5,
    ],
)
def test_a_response_format_of_another_kind_is_refused(make: Any, response_format: Any) -> None:
    with pytest.raises(ConfigError, match="response_format is "):
        make("x").invoke("hi", response_format=response_format)


async def test_the_text_class_takes_a_response_format_and_no_tools() -> None:
    llm = text_model(*answer(JSON))
    assert json.loads(llm.invoke("hi", response_format=WANTED)) == ANNA
    assert json.loads("".join(llm.stream("hi", response_format=WANTED))) == ANNA
    assert json.loads(await llm.bind(response_format="json_object").ainvoke("hi")) == ANNA
    assert [r.schema["type"] for r in bound(llm.large)] == ["object"] * 3
    for name, value in (("tools", [get_weather]), ("tool_choice", "any"), ("strict", True)):
        with pytest.raises(ConfigError, match=f"unknown argument '{name}' for GlimpRouterLLM"):
            llm.invoke("hi", **{name: value})
    unique = {"schema": {"type": "array", "uniqueItems": True}, "strict": True}
    with pytest.raises(ConfigError, match="uniqueItems"):
        llm.invoke("hi", response_format={"type": "json_schema", "json_schema": unique})


# -- agents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["the class itself", "ProviderStrategy"])
async def test_agents_bind_a_schema_together_with_tools(strategy: str) -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.structured_output import ProviderStrategy

    # With tools and a schema in one grammar no lead is written: both begin with a brace.
    backend = Turns([*CALL, ""], [*JSON, ""], name="both")
    llm = ChatGlimpRouter(small=backend, large=backend, temperature=0)
    expected = ProviderStrategy(Person) if strategy == "ProviderStrategy" else Person
    agent = agents.create_agent(llm, [get_weather], response_format=expected)
    for state in (
        agent.invoke({"messages": [("user", "hi")]}),
        await agent.ainvoke({"messages": [("user", "hi")]}),
    ):
        assert state["structured_response"] == Person(**ANNA)
        kinds = [message.type for message in state["messages"]]
        assert kinds == ["human", "ai", "tool", "ai"], "the provider's way, not a tool's"
        assert state["messages"][-1].content == "".join(JSON)
    for request in bound(backend):
        assert callable_names(request.schema) == ["get_weather"]
        assert request.schema["$defs"]["$answer"]["required"] == ["name", "age"]
    assert len(bound(backend)) == 4


def test_agents_may_ask_for_a_schema_as_a_tool() -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.structured_output import ToolStrategy

    backend = Turns(demanded(CALL), reply("function_calling", "Person"), name="both")
    llm = ChatGlimpRouter(small=backend, large=backend, temperature=0)
    agent = agents.create_agent(llm, [get_weather], response_format=ToolStrategy(Person))
    state = agent.invoke({"messages": [("user", "hi")]})
    assert state["structured_response"] == Person(**ANNA)
    assert {tuple(callable_names(r.schema)) for r in bound(backend)} == {("get_weather", "Person")}
