"""ChatGlimpRouter: the routed pair as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, cast

from langchain_core.callbacks.manager import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import BaseModel, ConfigDict, model_validator

from glimp_integrations.adapter import OUTPUT_ARGUMENTS
from glimp_integrations.errors import ConfigError
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.trace.events import Event, Finished, KindResolved, TextDelta, ToolCallDelta
from glimp_integrations.trace.trace import RoutedAnswer
from langchain_glimp._base import LangChainRouted
from langchain_glimp._messages import text_of, to_messages
from langchain_glimp._responses import (
    PROVIDER,
    call_chunk,
    calls_of,
    invalid_json_markers,
    metadata_of,
    reasoning_of,
    usage_of,
)
from langchain_glimp._structured_output import Method, structured
from langchain_glimp._tools import ToolLike, bind_tools, openai_tools

__all__ = ["ChatGlimpRouter"]


class _OwnProfile(dict[str, Any]):
    """A model profile that was made here, not passed by the caller."""


class ChatGlimpRouter(LangChainRouted, BaseChatModel):
    """A chat model (``BaseChatModel``) whose chain of thought is written by two models.

    At the start of every reasoning step the small model's first token is glimpsed; if the
    entropy of its distribution exceeds ``threshold``, the large model writes the step, else the
    small one. The large model writes the answer (arXiv 2601.05110, section 3).

    Setup:
        ``pip install 'glimp-integrations[langchain,llamacpp]'`` for the bundled models;
        ``[langchain]`` is enough for endpoints.

    Key init args:
        All fields of ``glimp_integrations.RoutingSettings``, ``step_events``, ``streaming``,
        and those of ``BaseChatModel`` (``cache``, ``rate_limiter``, ``callbacks``, ...).

    Instantiate:
        .. code-block:: python

            from langchain_glimp import ChatGlimpRouter

            llm = ChatGlimpRouter()  # the bundled models
            llm = ChatGlimpRouter(
                small="openai:Qwen/Qwen3-4B@http://gpu1:8000/v1",
                large="openai:Qwen/Qwen3-32B@http://gpu2:8000/v1",
                threshold=1.0,  # nats
            )

    Invoke:
        .. code-block:: python

            message = llm.invoke("What is 17 * 23?")
            message.content                                   # the answer
            message.additional_kwargs["reasoning_content"]    # the chain of thought
            message.response_metadata["glimprouter"]          # who wrote what, and why
            message.usage_metadata                            # tokens of all requests

    Tools:
        .. code-block:: python

            llm.bind_tools([get_weather]).invoke("Weather in Graz?").tool_calls

    Structured output, after a chain of thought that is not constrained:
        .. code-block:: python

            llm.with_structured_output(Person).invoke("Anna is 34.")

    Raises:
        ConfigError: A setting or a conversation that cannot be served.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``.partial`` holds what was written.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    _output_arguments: ClassVar[frozenset[str]] = OUTPUT_ARGUMENTS

    @model_validator(mode="before")
    @classmethod
    def _profile_is_of_this_model(cls, data: Any) -> Any:
        # A copy, as configurable fields make it, comes with the original's profile.
        if isinstance(data, dict) and isinstance(data.get("profile"), _OwnProfile):
            return {**data, "profile": None}
        return data

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools it may call.

        The models' own chat templates show the tools. The reasoning is routed as usual. A call is
        written by the model that writes the answer, constrained to the tool's schema where its
        backend supports schemas.

        Args:
            tools: Functions, tools, pydantic classes, TypedDicts or OpenAI's dictionaries.
            tool_choice: ``"auto"`` (also ``None``), ``"none"``, ``"any"`` (also ``"required"``
                and ``True``), a tool's name, or ``{"type": "function", "function": {"name":
                ...}}``.
            strict: Whether a call's arguments must follow the tool's schema. ``None``: where the
                schema and the backend allow it; ``True``: always, and an error where that is
                impossible; ``False``: calls are written freely, unless ``tool_choice`` forces one.
            parallel_tool_calls: Whether one message may hold several calls; ``None``: it may.
            **kwargs: Further arguments of every call: routing settings, ``response_format``.

        Raises:
            ConfigError: Raised by the returned model: two tools have the same name, ``tool_choice``
                names none of them, or ``strict`` is impossible.
        """
        return bind_tools(
            self,
            tools,
            tool_choice=tool_choice,
            strict=strict,
            parallel_tool_calls=parallel_tool_calls,
            **kwargs,
        )

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[ToolLike] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model's answer as data. Only the answer is constrained, not the chain of thought.

        Args:
            schema: A pydantic class, a TypedDict, a JSON schema, or a tool's dictionary (OpenAI's,
                Anthropic's or Bedrock's), whose parameters are then the schema.
            method: ``"json_schema"``: the answer follows the schema. ``"function_calling"``: the
                answer is the arguments of a tool. ``"json_mode"``: the answer is a JSON object,
                which the conversation has to describe.
            include_raw: Whether to return ``{"raw": message, "parsed": ..., "parsing_error": ...}``
                instead of the data alone.
            strict: As for :meth:`bind_tools`; it has no effect with ``"json_mode"``.
            tools: Tools the model may call instead of answering. The result is then ``None``, and
                with ``include_raw`` the calls are in ``"raw"``.
            **kwargs: Further arguments of every call: ``tool_choice``, ``parallel_tool_calls``,
                routing settings.

        Raises:
            ConfigError: The method is unknown or has no schema, or ``response_format`` is given
                too. Raised by the returned runnable: a grammar cannot express the schema; the
                message names the keyword.
        """
        return structured(
            self,
            schema,
            method=method,
            include_raw=include_raw,
            strict=strict,
            tools=tools,
            **kwargs,
        )

    @property
    def _llm_type(self) -> str:
        return f"{PROVIDER}-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        # LangChain reads the profile while the model is made, so nothing is loaded for it.
        windows = [self.router.small.context_window, self.router.large.context_window]
        profile = _OwnProfile(
            name=self.pair_name,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            image_url_inputs=False,
            pdf_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            image_tool_message=False,
            pdf_tool_message=False,
            image_outputs=False,
            audio_outputs=False,
            video_outputs=False,
            max_output_tokens=self.max_tokens,
            reasoning_output=True,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
            attachment=False,
        )
        limits = [window for window in windows if window is not None]
        if limits:
            profile["max_input_tokens"] = min(limits)
        return cast("ModelProfile", profile)

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[ToolLike] | None = None,
    ) -> int:
        """The number of tokens of a conversation as the large model reads it, template included.

        Messages that are not a conversation, such as a part of one while it is trimmed, have no
        rendering: the tokens of their texts are counted.

        Args:
            messages: The conversation.
            tools: Tools that the model is shown.

        Raises:
            ConfigError: The large model's backend does not count tokens.
        """
        converted = to_messages(messages)
        count = None
        if converted:
            output = OutputSpec(tools=openai_tools(tools or ()))
            with suppress(ConfigError):
                count = self.router.count_tokens(converted, output)
        return sum(self.get_num_tokens(text_of(m)) for m in converted) if count is None else count

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(self._answer(to_messages(messages), stop, run_manager, kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(await self._aanswer(to_messages(messages), stop, run_manager, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        return self._chunks(self._chunk, to_messages(messages), stop, run_manager, kwargs)

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        return self._achunks(self._chunk, to_messages(messages), stop, run_manager, kwargs)

    def _result(self, result: RoutedAnswer) -> ChatResult:
        message = AIMessage(
            content=result.answer,
            additional_kwargs=reasoning_of(result.reasoning),
            **calls_of(result),
            response_metadata=metadata_of(result, self.pair_name),
            usage_metadata=usage_of(result.usage),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, event: Event) -> ChatGenerationChunk | None:
        if isinstance(event, Finished):
            # LangChain adds up the chunks' usage and metadata, so only the last chunk has them.
            return ChatGenerationChunk(
                message=AIMessageChunk(
                    content="",
                    tool_call_chunks=invalid_json_markers(event.result),
                    response_metadata=metadata_of(event.result, self.pair_name),
                    usage_metadata=usage_of(event.result.usage),
                    chunk_position="last",
                )
            )
        if isinstance(event, ToolCallDelta):
            return ChatGenerationChunk(
                message=AIMessageChunk(content="", tool_call_chunks=[call_chunk(event)])
            )
        # Text that may be reasoning or answer has no kind yet. It comes again as KindResolved.
        if not isinstance(event, TextDelta | KindResolved) or event.kind is None:
            return None
        if event.kind == "reasoning":
            message = AIMessageChunk(content="", additional_kwargs=reasoning_of(event.text))
        else:
            message = AIMessageChunk(content=event.text)
        return ChatGenerationChunk(message=message)
