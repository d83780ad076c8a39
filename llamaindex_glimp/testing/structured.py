"""Objects of pydantic classes: complete, while they are written, and by ``as_structured_llm``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from llama_index.core.base.llms.types import MessageRole
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from pydantic import BaseModel

from llamaindex_glimp.testing.base import Suite, ask, call, once_a_class, recorded, run_async

__all__ = ["StructuredTests"]

PREDICT = ("structured_predict", "astructured_predict")
STREAM = ("stream_structured_predict", "astream_structured_predict")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class Course(Enum):
    """When a dish is served."""

    STARTER = "starter"
    DESSERT = "dessert"


class Part(BaseModel):
    """What a dish is made of."""

    name: str


class Dish(BaseModel):
    """Something to eat."""

    course: Course
    parts: list[Part]


PROMPT = PromptTemplate("Anna is {age} years old. Which person is that?")
DISH = PromptTemplate("A dessert of honey and nuts. Which dish is that?")


@dataclass(frozen=True)
class Predicted:
    """The objects of a call, and the events meanwhile."""

    objects: list[Any]
    events: list[BaseEvent]

    def of(self, kind: type[BaseEvent]) -> list[Any]:
        """The events of a class."""
        return [event for event in self.events if isinstance(event, kind)]


class StructuredTests(Suite):
    """``structured_predict`` and its async and streaming variants."""

    @pytest.fixture(autouse=True)
    def _needs_structured_output(self, request: pytest.FixtureRequest) -> None:
        owner = getattr(StructuredTests, request.node.originalname, None)
        if owner is not None and not self.has_structured_output:
            pytest.skip("has_structured_output is off")

    @pytest.fixture
    def predicted(self, request: pytest.FixtureRequest) -> Callable[[str], Predicted]:
        """One call by each method, made at its first use; many tests look at it."""

        def predict(method: str) -> Predicted:
            with recorded() as events:
                return Predicted(call(self.make_llm(), method, Person, PROMPT, age=31), events)

        return once_a_class(request, predict)

    @pytest.mark.parametrize("method", PREDICT)
    def test_predict(self, predicted: Callable[[str], Predicted], method: str) -> None:
        """Selectors and evaluators go on with the object."""
        (person,) = predicted(method).objects
        assert type(person) is Person
        assert person.name

    @pytest.mark.parametrize("method", STREAM)
    def test_stream_predict(self, predicted: Callable[[str], Predicted], method: str) -> None:
        """``StructuredLLM`` shows each object, of which the last is whole."""
        objects = predicted(method).objects
        assert all(isinstance(thing, BaseModel) for thing in objects)
        assert type(objects[-1]) is Person
        assert objects[-1].name

    @pytest.mark.parametrize("method", [*PREDICT, *STREAM])
    def test_prediction_events(self, predicted: Callable[[str], Predicted], method: str) -> None:
        """``LLM.structured_predict`` sends a start, and an end with the object."""
        seen = predicted(method)
        (start,) = seen.of(LLMStructuredPredictStartEvent)
        (end,) = seen.of(LLMStructuredPredictEndEvent)
        assert start.output_cls is Person
        assert end.output == seen.objects[-1]

    @pytest.mark.parametrize("method", STREAM)
    def test_progress_events(self, predicted: Callable[[str], Predicted], method: str) -> None:
        """``LLM.stream_structured_predict`` sends one for each object, too."""
        seen = predicted(method)
        outputs = [event.output for event in seen.of(LLMStructuredPredictInProgressEvent)]
        assert outputs == seen.objects

    @pytest.mark.parametrize("method", [*PREDICT, *STREAM])
    def test_one_chat(self, predicted: Callable[[str], Predicted], method: str) -> None:
        """Tracers hang the chat's span into the prediction's: one is made, and ends."""
        seen = predicted(method)
        assert len(seen.of(LLMChatStartEvent)) == 1
        assert len(seen.of(LLMChatEndEvent)) == 1

    @pytest.mark.parametrize("method", ["structured_predict", "astream_structured_predict"])
    def test_nested(self, llm: FunctionCallingLLM, method: str) -> None:
        """``model_json_schema`` writes nested classes, lists and enums as ``$ref``."""
        dish = call(llm, method, Dish, DISH)[-1]
        assert type(dish) is Dish
        assert isinstance(dish.course, Course)
        assert all(isinstance(part, Part) for part in dish.parts)

    def test_arguments_of_a_prediction(self, llm: FunctionCallingLLM) -> None:
        """``StructuredLLM`` gives a ``ChatPromptTemplate``, and ``llm_kwargs`` for the LLM."""
        template = ChatPromptTemplate(message_templates=ask("Anna is {age}. Which person is it?"))
        assert type(llm.structured_predict(Person, template, {"max_tokens": 90}, age=31)) is Person

    def test_system_prompt_of_a_prediction(self, llm: FunctionCallingLLM) -> None:
        """``LLM._extend_messages`` puts it in front, for objects as well."""
        llm.system_prompt = "You know Anna."
        with recorded() as events:
            llm.structured_predict(Person, PROMPT, age=31)
        (start,) = [event for event in events if isinstance(event, LLMChatStartEvent)]
        system = [m.content for m in start.messages if m.role == MessageRole.SYSTEM]
        assert "You know Anna." in "\n".join(text or "" for text in system)

    @pytest.mark.parametrize("method", ["chat", "achat"])
    def test_structured_chat(self, llm: FunctionCallingLLM, method: str) -> None:
        """Query engines take ``as_structured_llm``: JSON as content, the object as ``raw``."""
        (response,) = call(
            llm.as_structured_llm(Person), method, ask("Anna is 31. Which person is it?")
        )
        assert type(response.raw) is Person
        assert Person.model_validate_json(response.message.content or "") == response.raw

    def test_structured_complete(self, llm: FunctionCallingLLM) -> None:
        """The same, for a prompt."""
        response = llm.as_structured_llm(Person).complete("Anna is 31. Which person is it?")
        assert Person.model_validate_json(response.text) == response.raw

    # LlamaIndex itself still calls pydantic's json().
    @pytest.mark.filterwarnings("ignore:The `json` method is deprecated")
    def test_structured_stream(self, llm: FunctionCallingLLM) -> None:
        """The same, while it is written."""
        structured = llm.as_structured_llm(Person)
        responses = list(structured.stream_chat(ask("Anna is 31. Which person is it?")))
        assert type(responses[-1].raw) is Person
        assert Person.model_validate_json(responses[-1].message.content or "")

    def test_two_predictions_at_once(self, llm: FunctionCallingLLM) -> None:
        """Extractors run many at once, of different classes."""

        async def run() -> tuple[BaseModel, BaseModel]:
            person = asyncio.create_task(llm.astructured_predict(Person, PROMPT, age=31))
            dish = await llm.astructured_predict(Dish, DISH)
            return await person, dish

        person, dish = run_async(run)
        assert isinstance(person, Person)
        assert isinstance(dish, Dish)
