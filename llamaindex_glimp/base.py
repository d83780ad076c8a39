"""GlimpRouterLLM: the routed pair as a LlamaIndex LLM."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Any, ClassVar, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    ThinkingBlock,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import ConfigDict, Field, PrivateAttr

from glimp_integrations.adapter import OUTPUT_ARGUMENTS
from glimp_integrations.errors import ConfigError
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.router import result_of
from glimp_integrations.runtime.pair_info import PairInfo
from glimp_integrations.trace.events import Event, Finished
from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp._call_arguments import reads_first_block, settings_of
from llamaindex_glimp._extra_headers import hides_headers, send_headers
from llamaindex_glimp._messages import to_messages
from llamaindex_glimp._responses import StreamedReply, as_completion, to_chat_response
from llamaindex_glimp._serialization import Serializable
from llamaindex_glimp._streaming import ObservedStream
from llamaindex_glimp._structured_prediction import StructuredPrediction
from llamaindex_glimp._tool_calling import ToolCalling
from llamaindex_glimp.events import anotify_each, notify_each

__all__ = ["GlimpRouterLLM"]

Response = TypeVar("Response", ChatResponse, CompletionResponse)

_TOOL_ARGUMENTS = OUTPUT_ARGUMENTS - {"response_format"}

_log = logging.getLogger(__name__)


class GlimpRouterLLM(Serializable, ToolCalling, StructuredPrediction):
    """An LLM (``FunctionCallingLLM``) whose chain of thought is written by two models.

    At the start of every reasoning step the small model's first token is glimpsed; if the
    entropy of its distribution exceeds ``threshold``, the large model writes the step, else the
    small one. The large model writes the answer (arXiv 2601.05110, section 3).

    Setup:
        ``pip install 'glimp-integrations[llamaindex,llamacpp]'`` for the bundled models;
        ``[llamaindex]`` is enough for endpoints.

    Key init args:
        All fields of ``glimp_integrations.RoutingSettings``, ``step_events``, and those of
        LlamaIndex's ``LLM`` (``callback_manager``, ``rate_limiter``, ``system_prompt``, ...).

    Example:
        .. code-block:: python

            from llama_index.core import Settings
            from llamaindex_glimp import GlimpRouterLLM

            Settings.llm = GlimpRouterLLM()  # the bundled models

            llm = GlimpRouterLLM(
                small="openai:Qwen/Qwen3-4B@http://gpu1:8000/v1",
                large="openai:Qwen/Qwen3-32B@http://gpu2:8000/v1",
                threshold=1.0,  # nats
            )
            response = llm.complete("What is 17 * 23?")
            response.text                  # the answer
            response.raw["glimprouter"]    # who wrote what, and why
            response.raw["usage"]          # tokens of all requests

    In a chat the chain of thought is a ``ThinkingBlock`` in front of the answer. In a stream, each
    new part of it is in ``additional_kwargs["thinking_delta"]``, and ``delta`` is a part of the
    answer.

    Raises:
        ConfigError: A setting or a conversation that cannot be served.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``.partial`` holds what was written.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    context_window: int | None = Field(
        default=None,
        gt=0,
        description="The number of tokens that a prompt and its reply may have together, for "
        "LlamaIndex's prompt helper; None: the smaller of the two models' context windows.",
    )
    is_function_calling_model: bool | None = Field(
        default=None,
        description="Whether agents may pass tools to it; None: they may if the chat template of "
        "the model that writes the answer shows tools.",
    )
    step_events: bool = Field(
        default=False,
        description="Send every routing event to LlamaIndex's instrumentation, as one of the "
        "classes of llamaindex_glimp.events.",
    )

    _output_arguments: ClassVar[frozenset[str]] = OUTPUT_ARGUMENTS
    _warned_of_headers: bool = PrivateAttr(default=False)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows the class."""
        return "glimprouter_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """The sizes and abilities with which LlamaIndex plans prompts.

        The first use asks both models, and so loads them. ``num_output`` is the number of tokens
        that a prompt leaves for the reply: for the chain of thought and the answer, at most half of
        the context window.

        Raises:
            BackendError: A model cannot be reached.
            UnsuitableEndpointError: A model cannot be used.
        """
        settings = (self.context_window, self.is_function_calling_model, self.think_tags)
        return self._metadata(None if None not in settings else self.router.pair_info())

    def _metadata(self, info: PairInfo | None) -> LLMMetadata:
        """The metadata as far as settings and ``info`` say; LlamaIndex's defaults for the rest."""
        window = self.context_window or (info and info.context_window) or DEFAULT_CONTEXT_WINDOW
        tagged = info.thinks_in_tags if info and self.think_tags is None else self.think_tags
        reply = self.max_tokens + (self.max_thinking_tokens if tagged else 0)
        reply = min(reply, self.max_completion_tokens or reply)
        calls = self.is_function_calling_model
        if calls is None and info is not None:
            authors = {"small", "large"} if self.answer_by == "router" else {self.answer_by}
            calls = authors <= info.shows_tools
        return LLMMetadata(
            context_window=window,
            num_output=min(reply, window // 2),
            is_chat_model=True,
            is_function_calling_model=bool(calls),
            model_name=self.pair_name,
        )

    def to_payload(self) -> dict[str, Any]:
        """What observers see of this LLM. It holds no secrets, and loads no model."""
        info = self.router.known_info
        return {
            "class_name": self.class_name(),
            **self._metadata(info).model_dump(),
            **self.identity,
        }

    # -- Chat and completion --

    @hides_headers
    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Args:
            messages: Text, tool calls and tool results. ``keep_reasoning`` decides which earlier
                reasoning the models read.
            **kwargs: Routing settings of this call; ``tools``, ``tool_choice``, ``strict``,
                ``parallel_tool_calls`` and ``response_format`` as in OpenAI's API;
                ``extra_headers`` for the requests to servers; ``n=1``.

        Raises:
            ConfigError: An argument or the conversation cannot be served.
            UnsuitableEndpointError: A server lacks what routing needs.
            BackendError: A model failed; ``.partial`` holds what was written.
        """
        return self._chat_response(self._answer(to_messages(messages), kwargs), kwargs)

    @hides_headers
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation, and return the reply while it is written.

        Closing the generator stops the models. Arguments and errors are those of :meth:`chat`.
        """
        observed = ObservedStream(lambda: self._responses(_same, to_messages(messages), kwargs))
        return observed.stream(llm_chat_callback(), self, messages, **kwargs)

    @hides_headers
    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Asynchronous :meth:`chat`. Cancelling it stops the models."""
        return self._chat_response(await self._aanswer(to_messages(messages), kwargs), kwargs)

    @hides_headers
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Asynchronous :meth:`stream_chat`."""
        observed = ObservedStream(lambda: self._aresponses(_same, to_messages(messages), kwargs))
        return await observed.astream(llm_chat_callback(), self, messages, **kwargs)

    @hides_headers
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which the models read as one user message.

        Args:
            prompt: The text.
            formatted: Whether ``completion_to_prompt`` was applied to it already.
            **kwargs: As for :meth:`chat`, without tools.
        """
        result = self._answer(self._question(prompt, formatted, kwargs), kwargs)
        return as_completion(to_chat_response(result, self.pair_name))

    @hides_headers
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt, and return the completion while it is written."""
        observed = ObservedStream(
            lambda: self._responses(
                as_completion, self._question(prompt, formatted, kwargs), kwargs
            )
        )
        return observed.stream(llm_completion_callback(), self, prompt, **kwargs)

    @hides_headers
    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Asynchronous :meth:`complete`."""
        result = await self._aanswer(self._question(prompt, formatted, kwargs), kwargs)
        return as_completion(to_chat_response(result, self.pair_name))

    @hides_headers
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Asynchronous :meth:`stream_complete`."""
        observed = ObservedStream(
            lambda: self._aresponses(
                as_completion, self._question(prompt, formatted, kwargs), kwargs
            )
        )
        return await observed.astream(llm_completion_callback(), self, prompt, **kwargs)

    def _question(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> str:
        """The text that the models read for a prompt."""
        if misplaced := sorted(_TOOL_ARGUMENTS & set(kwargs)):
            raise ConfigError(
                f"a completion is text and has no place for tool calls ({', '.join(misplaced)}): "
                "use chat"
            )
        if formatted or self.completion_to_prompt is None:
            return prompt
        return self.completion_to_prompt(prompt)

    def _chat_response(self, result: RoutedAnswer, kwargs: dict[str, Any]) -> ChatResponse:
        response = to_chat_response(result, self.pair_name)
        if reads_first_block(kwargs):  # then that block has to be the answer
            response.message.blocks.sort(key=lambda block: isinstance(block, ThinkingBlock))
        return response

    def call_changes(
        self, stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], OutputSpec]:
        """The settings and the output specification of one call.

        Args:
            stop: Stop strings of this call.
            given: The call's arguments.

        Raises:
            ConfigError: An argument is unknown, or more than one reply is asked for.
        """
        return super().call_changes(stop, settings_of(given))

    @contextmanager
    def _with_headers(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Let the requests that are made meanwhile carry the call's headers.

        A model without a server has no requests; that is logged once.
        """
        with send_headers(kwargs) as names:
            models = (self.router.small, self.router.large)
            without = [model.name for model in models if not model.sends_headers]
            if names and without and not self._warned_of_headers:
                self._warned_of_headers = True
                _log.warning(
                    "extra_headers (%s) are not sent for %s: the model is not on a server",
                    ", ".join(names),
                    " and ".join(without),
                )
            yield

    def _answer(self, messages: Any, kwargs: dict[str, Any]) -> RoutedAnswer:
        if not self.step_events:  # passing on events that nothing reads would take time
            changes, output = self.call_changes(None, kwargs)
            with self._with_headers(kwargs):
                return self.router.run(messages, output, **changes)
        last = deque(self._events(messages, kwargs), maxlen=1).pop()
        assert isinstance(last, Finished), last  # the router promises that it comes last
        return last.result

    async def _aanswer(self, messages: Any, kwargs: dict[str, Any]) -> RoutedAnswer:
        if not self.step_events:
            changes, output = self.call_changes(None, kwargs)
            with self._with_headers(kwargs):
                return await self.router.arun(messages, output, **changes)
        return await result_of(self._aevents(messages, kwargs))

    def _responses(
        self, convert: Callable[[ChatResponse], Response], messages: Any, kwargs: dict[str, Any]
    ) -> Generator[Response, None, None]:
        events, reply = self._events(messages, kwargs), StreamedReply(self.pair_name)

        def responses() -> Generator[Response, None, None]:
            with closing(events):
                for event in events:
                    if (response := reply.add(event)) is not None:
                        yield convert(response)

        return responses()

    def _aresponses(
        self, convert: Callable[[ChatResponse], Response], messages: Any, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Response, None]:
        events, reply = self._aevents(messages, kwargs), StreamedReply(self.pair_name)

        async def responses() -> AsyncGenerator[Response, None]:
            async with aclosing(events):
                async for event in events:
                    if (response := reply.add(event)) is not None:
                        yield convert(response)

        return responses()

    def _events(self, messages: Any, kwargs: dict[str, Any]) -> Generator[Event, None, None]:
        """The events of one call. Mistakes in the arguments raise here, before the first event."""
        changes, output = self.call_changes(None, kwargs)
        with self._with_headers(kwargs):  # the stream keeps the headers that are set now
            events: Any = self.router.stream(messages, output, **changes)
        return notify_each(events) if self.step_events else events

    def _aevents(self, messages: Any, kwargs: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """Asynchronous :meth:`_events`."""
        changes, output = self.call_changes(None, kwargs)
        with self._with_headers(kwargs):
            events = self.router.astream(messages, output, **changes)
        return anotify_each(events) if self.step_events else events


def _same(response: ChatResponse) -> ChatResponse:
    return response
