"""Structured prediction: the schema binds the answer, the chain of thought in front stays free."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, ClassVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.output_parsers.base import OutputParserException
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ValidationError

from llamaindex_glimp._asked import veiled, without_tool_words

__all__ = ["Predicting"]

_dispatcher = get_dispatcher(__name__)
_log = logging.getLogger(__name__)


class Predicting(FunctionCallingLLM):
    """An LLM whose ``response_format`` binds the answer alone."""

    stream_structured_predict: ClassVar[Any] = veiled(LLM.stream_structured_predict)
    astream_structured_predict: ClassVar[Any] = veiled(
        FunctionCallingLLM.astream_structured_predict
    )

    @veiled
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Predict an object. The chain of thought stays free: only the answer is bound.

        Args:
            output_cls: A pydantic class.
            prompt: Template of the conversation.
            llm_kwargs: As for :meth:`chat`. What is said of tool calls means nothing here, and
                is left out as LlamaIndex's own programs do.
            **prompt_args: Values of the template's variables.

        Raises:
            ConfigError: The grammar engine cannot express the class's schema.
            OutputParserException: The answer was cut off, or is no such object.
        """
        llm_kwargs = without_tool_words(llm_kwargs)
        if not _binds_answer(self):
            found: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return found
        _predicting(output_cls, prompt, prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        return _predicted(_parse(output_cls, self.chat(messages, **kwargs)))

    @veiled
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Asynchronous :meth:`structured_predict`."""
        llm_kwargs = without_tool_words(llm_kwargs)
        if not _binds_answer(self):
            found: Model = await super().astructured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return found
        _predicting(output_cls, prompt, prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        return _predicted(_parse(output_cls, await self.achat(messages, **kwargs)))

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        llm_kwargs = without_tool_words(llm_kwargs)
        if not _binds_answer(self):
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        partial = _Partial(output_cls)
        found = (partial.add(response) for response in self.stream_chat(messages, **kwargs))
        return (thing for thing in found if thing is not None)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        llm_kwargs = without_tool_words(llm_kwargs)
        if not _binds_answer(self):
            return await super()._structured_astream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        partial = _Partial(output_cls)
        responses = await self.astream_chat(messages, **kwargs)
        return (thing async for r in responses if (thing := partial.add(r)) is not None)


def _binds_answer(llm: LLM) -> bool:
    """Whether predictions are made here; other program modes are LlamaIndex's own affair."""
    return bool(llm.pydantic_program_mode == PydanticProgramMode.DEFAULT)


def _prepare(
    llm: LLM,
    output_cls: type[BaseModel],
    prompt: BasePromptTemplate,
    llm_kwargs: Mapping[str, Any],
    prompt_args: Mapping[str, Any],
) -> tuple[Sequence[ChatMessage], dict[str, Any]]:
    """Messages and arguments of the chat call that predicts."""
    messages = llm._extend_messages(prompt.format_messages(llm=llm, **prompt_args))
    schema = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    return messages, {**llm_kwargs, "response_format": wanted}


def _parse(output_cls: type[Model], response: ChatResponse) -> Model:
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


class _Partial:
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
            return _parse(self._class, response)
        if not response.delta:
            return None
        try:
            found = process_streaming_objects(response, self._class, cur_objects=self._objects)
        except Exception as error:
            # A validator met fields that are not there yet. The whole object is validated anyhow.
            _log.debug("a part of a %s is no object yet: %r", self._class.__name__, error)
            return None
        self._objects = [found]
        return found


def _predicting(output_cls: Any, prompt: Any, prompt_args: dict[str, Any]) -> None:
    _dispatcher.event(
        LLMStructuredPredictStartEvent(
            output_cls=output_cls, template=prompt, template_args=prompt_args
        )
    )


def _predicted(found: Model) -> Model:
    _dispatcher.event(LLMStructuredPredictEndEvent(output=found))
    return found
