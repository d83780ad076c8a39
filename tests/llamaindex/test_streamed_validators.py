"""Objects that stream, of classes whose own code fails at parts of them."""

from __future__ import annotations

from typing import Any, Self

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, computed_field, field_validator, model_validator
from scripted_llms import HI, scripted
from scripts import answer

JSON = ['{"low"', ": 1", ', "high": ', "5", "}"]
MODES = ["default", "llm"]
WAYS = ["stream_structured_predict", "astream_structured_predict"]


class After(BaseModel):
    low: int
    high: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        assert self.low < self.high  # type: ignore[operator]  # TypeError while it is not there
        return self


class Before(BaseModel):
    low: int
    high: int

    @model_validator(mode="before")
    @classmethod
    def _ordered(cls, data: Any) -> Any:
        if data["low"] > data["high"]:  # KeyError
            raise ValueError("turned around")
        return data


class OfField(BaseModel):
    low: int = 0
    high: Any = Field(default=None, validate_default=True)

    @field_validator("high")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return value.bit_length() and value  # AttributeError


class Computed(BaseModel):
    low: int
    high: int | None = None

    def model_post_init(self, context: Any, /) -> None:
        _ = 1 / (self.high or 0)  # ZeroDivisionError

    @computed_field  # type: ignore[prop-decorator]
    @property
    def width(self) -> int:
        return (self.high or 0) - self.low


CLASSES = [After, Before, OfField, Computed]


async def objects(way: str, llm: Any, cls: Any) -> list[Any]:
    result = getattr(llm, way)(cls, PromptTemplate("Which range?"))
    if way.startswith("a"):
        return [item async for item in await result]
    return list(result)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("way", WAYS)
async def test_parts_at_which_a_validator_fails_are_skipped(
    way: str, cls: type[BaseModel], mode: str
) -> None:
    llm = scripted(*(answer(JSON) if mode == "default" else JSON), pydantic_program_mode=mode)
    result = await objects(way, llm, cls)
    assert result[-1] == cls(low=1, high=5)
    assert type(result[-1]) is cls


@pytest.mark.parametrize("way", WAYS)
async def test_parts_that_validate_are_still_yielded(way: str) -> None:
    class Plain(BaseModel):
        low: int = 0
        high: int = 0

    result = await objects(way, scripted(*answer(JSON)), Plain)
    assert Plain(low=1) in result and result[-1] == Plain(low=1, high=5)


@pytest.mark.parametrize(
    ("cls", "text", "error"),
    [
        (After, '{"low": 1}', TypeError),
        (After, '{"low": 7, "high": 5}', OutputParserException),
        (Before, '{"low": 7, "high": 5}', OutputParserException),
        (Computed, '{"low": 1}', ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_the_whole_object_is_validated_as_ever(
    way: str, cls: Any, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await objects(way, scripted(*answer([text])), cls)
    with pytest.raises(error):
        scripted(*answer([text])).structured_predict(cls, PromptTemplate("Which range?"))


# StructuredLLM writes parts by a method that pydantic has renamed.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
def test_a_structured_llm_streams_them() -> None:
    llm = scripted(*answer(JSON)).as_structured_llm(After)
    last = list(llm.stream_chat([*HI, ChatMessage("So?")]))[-1]
    assert last.raw == After(low=1, high=5)
