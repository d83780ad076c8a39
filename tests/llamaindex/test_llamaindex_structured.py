"""Answers as objects: ``structured_predict`` and its siblings, and the LLM made of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, RootModel
from scripted_llms import HI, endless, listening, scripted
from scripts import CALL, REASONING, answer, bound, callable_names, demanded, pair

from glimp_integrations import BackendError, ConfigError
from llamaindex_glimp import GlimpRouterLLM

JSON = ['{"name": "An', 'na", "age"', ": 3", "4}"]
CALL_OF_PERSON = ['{"name": "Person", "arguments": ', *JSON, "}"]
WAYS = [
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
]
WHOLE, STREAMS = WAYS[:2], WAYS[2:]
MODES = [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION, PydanticProgramMode.LLM]


class Person(BaseModel):
    """Somebody."""

    name: str = Field(description="Given name")
    age: int


class Address(BaseModel):
    """A place."""

    town: str = Field(alias="theTown")


class Numbers(RootModel[list[int]]):
    """Some numbers."""


class Family(BaseModel):
    """A tree."""

    name: str
    children: list[Family] = []


ANNA = Person(name="Anna", age=34)


def template() -> PromptTemplate:
    # LlamaIndex's programs write into the template they are given.
    return PromptTemplate("Who is {who}?")


async def objects(way: str, llm: Any, cls: Any = Person, **kwargs: Any) -> list[Any]:
    """Every object of one prediction; of a whole one there is one."""
    kwargs = {"prompt": template(), "who": "she", **kwargs}
    result = getattr(llm, way)(cls, **kwargs)
    if way.startswith("a"):
        result = await result
    if "stream" not in way:
        return [result]
    return list(result) if way.startswith("stream") else [item async for item in result]


async def predicted(way: str, llm: Any, cls: Any = Person, **kwargs: Any) -> Any:
    return (await objects(way, llm, cls, **kwargs))[-1]


# -- objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("supports_schema", [True, False], ids=["bound", "free"])
@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_becomes_an_object(way: str, tags: bool, supports_schema: bool) -> None:
    llm = scripted(
        *answer(JSON, supports_schema=supports_schema), tags=tags, supports_schema=supports_schema
    )
    result = await predicted(way, llm)
    assert (result, type(result)) == (ANNA, Person)


@pytest.mark.parametrize("way", WAYS)
async def test_the_answer_is_constrained_and_the_reasoning_is_free(way: str) -> None:
    llm = scripted(*answer(JSON))
    await predicted(way, llm)
    assert bound(llm.small) == []
    (request,) = bound(llm.large)
    assert REASONING in request.prompt and request.prompt.endswith("```json\n")
    assert request.schema["required"] == ["name", "age"]
    told = llm.large.conversations[0][0]["content"]
    assert (
        told.startswith("First think") and '"Given name"' in told and told.endswith("Who is she?")
    )


@pytest.mark.parametrize(
    ("cls", "text", "expected"),
    [
        (Address, ['{"theTown": ', '"Graz"}'], Address(theTown="Graz")),
        (Numbers, ["[1, ", "2]"], Numbers([1, 2])),
        (
            Family,
            ['{"name": "a", "children": [{"name": "b"', "}]}"],
            Family(name="a", children=[Family(name="b")]),
        ),
    ],
    ids=["alias", "root", "recursive"],
)
@pytest.mark.parametrize("way", WAYS)
async def test_classes_of_every_kind(way: str, cls: Any, text: list[str], expected: Any) -> None:
    assert await predicted(way, scripted(*answer(text)), cls) == expected


@pytest.mark.parametrize("way", WAYS)
async def test_what_no_grammar_keeps_is_checked_by_the_class(way: str) -> None:
    class Unusual(BaseModel):
        items: set[int] = Field(min_length=2)

    llm = scripted(*answer(['{"items": ', "[1, 1, 2]}"]))
    assert await predicted(way, llm, Unusual) == Unusual(items={1, 2})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WHOLE)
async def test_every_mode_predicts(way: str, mode: Any) -> None:
    scripts = {
        PydanticProgramMode.DEFAULT: answer(JSON),
        PydanticProgramMode.FUNCTION: demanded(CALL_OF_PERSON),
        PydanticProgramMode.LLM: JSON,
    }
    llm = scripted(*scripts[mode], pydantic_program_mode=mode)
    assert await predicted(way, llm) == ANNA
    schemas = [request.schema for request in bound(llm.large)]
    assert len(schemas) == (mode != PydanticProgramMode.LLM)
    if mode == PydanticProgramMode.FUNCTION:
        assert callable_names(schemas[0]) == ["Person"]


@pytest.mark.parametrize("way", STREAMS)
async def test_objects_of_llamaindex_s_own_program_stream_as_well(way: str) -> None:
    llm = scripted(*JSON, pydantic_program_mode=PydanticProgramMode.LLM)
    assert await predicted(way, llm) == ANNA


@pytest.mark.parametrize("way", STREAMS)
async def test_objects_of_a_function_program_stream_as_well(way: str) -> None:
    llm = scripted(*demanded(CALL_OF_PERSON), pydantic_program_mode=PydanticProgramMode.FUNCTION)
    assert await predicted(way, llm) == ANNA


def test_a_function_program_works_on_its_own() -> None:
    program = FunctionCallingProgram.from_defaults(
        Person, prompt=template(), llm=scripted(*demanded(CALL_OF_PERSON))
    )
    assert program(who="she") == ANNA


@pytest.mark.parametrize("way", WAYS)
async def test_a_template_may_be_a_conversation(way: str) -> None:
    llm = scripted(*answer(JSON), show_schema=False)
    prompt = ChatPromptTemplate.from_messages([("system", "Be {how}."), ("user", "Who?")])
    assert await predicted(way, llm, prompt=prompt, how="brief") == ANNA
    said = [(m["role"], m["content"]) for m in llm.large.conversations[0]]
    assert said == [("system", "Be brief."), ("user", "Who?")]


@pytest.mark.parametrize("way", WAYS)
async def test_the_system_prompt_comes_first(way: str) -> None:
    llm = scripted(*answer(JSON), system_prompt="Be brief.", show_schema=False)
    await predicted(way, llm)
    said = [(m["role"], m["content"]) for m in llm.large.conversations[0]]
    assert said == [("system", "Be brief."), ("user", "Who is she?")]


@pytest.mark.parametrize("way", WAYS)
async def test_settings_go_to_the_call(way: str) -> None:
    llm = scripted(*answer(JSON))
    expected = {"answer_by": "small", "max_tokens": 300, "response_format": {"type": "text"}}
    given = dict(expected)
    assert await predicted(way, llm, llm_kwargs=given) == ANNA
    assert given == expected, "the caller's own"
    assert (bound(llm.small)[0].max_tokens, bound(llm.large)) == (300, [])
    with pytest.raises(ConfigError, match="'tempreature'"):
        await predicted(way, llm, llm_kwargs={"tempreature": 1})


# -- answers that are none -------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_was_cut_off_is_an_error(way: str) -> None:
    # What there is would be a Person, aged 3.
    llm = scripted(*answer(JSON), max_tokens=3)
    with pytest.raises(OutputParserException, match="max_tokens") as caught:
        await predicted(way, llm)
    assert """It reads: '{"name": "Anna", "age": 3'""" in str(caught.value)


@pytest.mark.parametrize("text", ["Anna is 34.", '{"name": "Anna"}', "", '{"name": "Anna", "age"'])
@pytest.mark.parametrize("way", WAYS)
async def test_without_a_grammar_the_answer_may_not_be_an_object(way: str, text: str) -> None:
    llm = scripted(*answer([text] if text else [], supports_schema=False), supports_schema=False)
    with pytest.raises(OutputParserException, match="the answer is not a Person") as caught:
        await predicted(way, llm)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        ["```json\n", *JSON, "\n```"],
        ["```json\n", "Here: ", *JSON, " - that is all.", "\n```"],
    ],
    ids=["fence", "sentence"],
)
@pytest.mark.parametrize("way", WAYS)
async def test_an_object_in_other_words_is_found(way: str, script: list[str]) -> None:
    assert await predicted(way, scripted(*script, supports_schema=False)) == ANNA


@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_of_a_model_passes_through(way: str) -> None:
    llm = scripted(*answer(JSON), of={"fail_after": 7}, max_retries=0)
    with pytest.raises(BackendError):
        await predicted(way, llm)


# -- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", STREAMS)
async def test_objects_grow_once_the_answer_begins(way: str) -> None:
    result = await objects(way, scripted(*answer(JSON)))
    assert [(item.name, item.age) for item in result] == [
        ("An", None),
        ("An", None),
        ("Anna", 3),
        ("Anna", 34),
        ("Anna", 34),
    ], "nothing while the models think"
    assert type(result[-1]) is Person


@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_that_is_left_stops_the_models(way: str) -> None:
    backends = pair(*answer(['{"name": "A', *["n"] * 500]), delay=0.002)
    llm = GlimpRouterLLM(**backends, temperature=0)
    stream = getattr(llm, way)(Person, template(), who="she")
    if way.startswith("a"):
        stream = await stream
        assert (await anext(stream)).name == "A"
        await stream.aclose()
    else:
        assert next(stream).name == "A"
        stream.close()
    await at_rest(backends["large"])
    assert backends["large"]._generated < 400


async def at_rest(backend: Any) -> None:
    """Wait until nothing is written any more."""
    before = -1
    while backend._generated != before:
        before = backend._generated
        await asyncio.sleep(0.05)


# -- around it -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_observers_hear_of_predictions(way: str) -> None:
    with listening() as heard:
        result = await objects(way, scripted(*answer(JSON)))
    (start,) = heard.of(LLMStructuredPredictStartEvent)
    (end,) = heard.of(LLMStructuredPredictEndEvent)
    assert (start.output_cls, start.template_args) == (Person, {"who": "she"})
    assert end.output == ANNA
    parts = heard.of(LLMStructuredPredictInProgressEvent)
    assert len(parts) == (len(result) if "stream" in way else 0)
    assert heard.names().count("LLMChatStartEvent") == heard.names().count("LLMChatEndEvent") == 1


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_an_llm_of_objects() -> None:
    plain = scripted(*answer(JSON))
    llm = plain.as_structured_llm(Person)
    assert llm.chat(HI).raw == (await llm.achat(HI)).raw == ANNA
    assert llm.complete("hi").text == (await llm.acomplete("hi")).text == ANNA.model_dump_json()
    assert [r.raw for r in llm.stream_chat(HI)][-1] == ANNA
    assert [r.raw async for r in await llm.astream_chat(HI)][-1] == ANNA
    assert llm.metadata == plain.metadata
    assert llm.chat(HI, answer_by="small").raw == ANNA
    assert bound(plain.small)


def test_the_class_is_a_function_calling_llm_like_others() -> None:
    llm = scripted(*demanded(CALL))
    assert isinstance(llm, FunctionCallingLLM)
    assert (llm.class_name(), endless().class_name()) == ("glimprouter_llm", "glimprouter_llm")
