"""Structured prediction: only the answer is constrained to the schema, not the chain of thought."""

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

from llamaindex_glimp._call_arguments import without_tool_arguments
from llamaindex_glimp._extra_headers import hides_headers

__all__ = ["StructuredPrediction"]

_dispatcher = get_dispatcher(__name__)
_log = logging.getLogger(__name__)


class StructuredPrediction(FunctionCallingLLM):
    """An LLM that predicts objects by ``response_format``, which constrains only the answer."""

    stream_structured_predict: ClassVar[Any] = hides_headers(LLM.stream_structured_predict)
    astream_structured_predict: ClassVar[Any] = hides_headers(
        FunctionCallingLLM.astream_structured_predict
    )

    @hides_headers
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Predict an object. Only the answer is constrained, not the chain of thought.

        Args:
            output_cls: The object's pydantic class.
            prompt: The template of the conversation.
            llm_kwargs: Arguments of :meth:`chat`. Those about tool calls have no effect without
                tools, and are left out, as LlamaIndex's own programs do.
            **prompt_args: Values of the template's variables.

        Raises:
            ConfigError: A grammar cannot express the class's schema.
            OutputParserException: The answer was cut off, or is not such an object.
        """
        llm_kwargs = without_tool_arguments(llm_kwargs)
        if not _predicts_here(self):
            prediction: Model = super().structured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return prediction
        _report_start(output_cls, prompt, prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        return _report_end(_parse(output_cls, self.chat(messages, **kwargs)))

    @hides_headers
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Asynchronous :meth:`structured_predict`."""
        llm_kwargs = without_tool_arguments(llm_kwargs)
        if not _predicts_here(self):
            prediction: Model = await super().astructured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return prediction
        _report_start(output_cls, prompt, prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        return _report_end(_parse(output_cls, await self.achat(messages, **kwargs)))

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        llm_kwargs = without_tool_arguments(llm_kwargs)
        if not _predicts_here(self):
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        growing = _GrowingObject(output_cls)
        objects = (growing.add(response) for response in self.stream_chat(messages, **kwargs))
        return (partial for partial in objects if partial is not None)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        llm_kwargs = without_tool_arguments(llm_kwargs)
        if not _predicts_here(self):
            return await super()._structured_astream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
        messages, kwargs = _prepare(self, output_cls, prompt, llm_kwargs, prompt_args)
        growing = _GrowingObject(output_cls)
        responses = await self.astream_chat(messages, **kwargs)
        return (partial async for r in responses if (partial := growing.add(r)) is not None)


def _predicts_here(llm: LLM) -> bool:
    """Whether this class makes the predictions; LlamaIndex makes those of other program modes."""
    return bool(llm.pydantic_program_mode == PydanticProgramMode.DEFAULT)


def _prepare(
    llm: LLM,
    output_cls: type[BaseModel],
    prompt: BasePromptTemplate,
    llm_kwargs: Mapping[str, Any],
    prompt_args: Mapping[str, Any],
) -> tuple[Sequence[ChatMessage], dict[str, Any]]:
    """The messages and arguments of the chat call that predicts an object."""
    messages = llm._extend_messages(prompt.format_messages(llm=llm, **prompt_args))
    schema = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
    response_format = {"type": "json_schema", "json_schema": schema}
    return messages, {**llm_kwargs, "response_format": response_format}


def _parse(output_cls: type[Model], response: ChatResponse) -> Model:
    """The predicted object.

    Raises:
        OutputParserException: The answer was cut off, or is not such an object.
    """
    text = response.message.content or ""
    if (response.raw or {}).get("finish_reason") == "length":
        raise OutputParserException(
            f"the answer was cut off before it was a complete {output_cls.__name__}: raise "
            f"max_tokens, or serve the models with a larger context window. It reads: {text!r}"
        )
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        try:
            # Without a grammar, the model may have put the object in a fence or a sentence.
            prediction: Model = PydanticOutputParser(output_cls).parse(text)
        except ValueError:
            raise OutputParserException(
                f"the answer is not a {output_cls.__name__}: {error}. It reads: {text!r}"
            ) from None
        return prediction


class _GrowingObject:
    """An object while it is written.

    Args:
        output_cls: The object's class.
    """

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._class = output_cls
        self._objects: list[Any] | None = None

    def add(self, response: ChatResponse) -> Any | None:
        """The object with the fields written so far; ``None`` if there are no new ones.

        Args:
            response: The next cumulative response.

        Raises:
            OutputParserException: This is the last response, and it does not hold such an object.
        """
        if response.raw is not None:
            return _parse(self._class, response)
        if not response.delta:
            return None
        try:
            partial = process_streaming_objects(response, self._class, cur_objects=self._objects)
        except Exception as error:
            # One of the class's own validators failed on fields that are not written yet. The
            # complete object is validated at the end in any case.
            _log.debug("a part of a %s is not an object yet: %r", self._class.__name__, error)
            return None
        self._objects = [partial]
        return partial


def _report_start(output_cls: Any, prompt: Any, prompt_args: dict[str, Any]) -> None:
    _dispatcher.event(
        LLMStructuredPredictStartEvent(
            output_cls=output_cls, template=prompt, template_args=prompt_args
        )
    )


def _report_end(prediction: Model) -> Model:
    _dispatcher.event(LLMStructuredPredictEndEvent(output=prediction))
    return prediction
