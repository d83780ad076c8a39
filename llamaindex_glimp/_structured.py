"""Structured prediction: the schema binds the answer, the chain of thought in front stays free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms.llm import LLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ValidationError

__all__ = ["Partial", "binds_answer", "parse", "prepare"]

Model = TypeVar("Model", bound=BaseModel)


def binds_answer(llm: LLM) -> bool:
    """Whether predictions are made here; other program modes are LlamaIndex's own affair."""
    return bool(llm.pydantic_program_mode == PydanticProgramMode.DEFAULT)


def prepare(
    llm: LLM,
    output_cls: type[BaseModel],
    prompt: BasePromptTemplate,
    llm_kwargs: Mapping[str, Any] | None,
    prompt_args: Mapping[str, Any],
) -> tuple[Sequence[ChatMessage], dict[str, Any]]:
    """Messages and arguments of the chat call that predicts."""
    messages = llm._extend_messages(prompt.format_messages(llm=llm, **prompt_args))
    schema = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    return messages, {**(llm_kwargs or {}), "response_format": wanted}


def parse(output_cls: type[Model], response: ChatResponse) -> Model:
    """The predicted object.

    Raises:
        OutputParserException: The answer was cut off, or is no such object.
    """
    text = response.message.content or ""
    if (response.raw or {}).get("finish_reason") == "length":
        raise OutputParserException(
            f"the answer was cut off before it was a whole {output_cls.__name__}: raise "
            f"max_tokens, or serve the models with a larger context window. It reads: {text!r}"
        )
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        try:
            # Where no grammar bound it, the object may stand in a fence or a sentence.
            found: Model = PydanticOutputParser(output_cls).parse(text)
        except ValueError:
            raise OutputParserException(
                f"the answer is no {output_cls.__name__}: {error}. It reads: {text!r}"
            ) from None
        return found


class Partial:
    """An object while it is written.

    Args:
        output_cls: Its class.
    """

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._class = output_cls
        self._objects: list[Any] | None = None

    def add(self, response: ChatResponse) -> Any | None:
        """The object as far as a response tells; ``None`` while it says nothing new.

        Raises:
            OutputParserException: This was the last response, and it holds no such object.
        """
        if response.raw is not None:
            return parse(self._class, response)
        if not response.delta:
            return None
        found = process_streaming_objects(response, self._class, cur_objects=self._objects)
        self._objects = [found]
        return found
