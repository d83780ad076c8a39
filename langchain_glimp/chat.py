"""ChatGlimpRouter: the routed pair as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks.manager import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from glimp_integrations.events import Event, Finished, Settled, TextDelta
from glimp_integrations.trace import RoutedAnswer
from langchain_glimp._calls import LangChainRouted
from langchain_glimp._convert import PROVIDER, metadata_of, reasoning_of, to_messages, usage_of

__all__ = ["ChatGlimpRouter"]


class ChatGlimpRouter(LangChainRouted, BaseChatModel):
    """Chat model whose chain of thought is written by two models, step by step.

    At the start of every reasoning step the small model's first token is glimpsed; if the
    entropy of its distribution exceeds ``threshold``, the large model writes the step, else the
    small one. The large model writes the answer (arXiv 2601.05110, section 3).

    Setup:
        ``pip install 'glimp-integrations[langchain,llamacpp]'`` for the embedded pair;
        ``[langchain]`` is enough for endpoints.

    Key init args:
        All fields of ``glimp_integrations.RoutingSettings``, ``step_events``, ``streaming``,
        and those of ``BaseChatModel`` (``cache``, ``rate_limiter``, ``callbacks``, ...).

    Instantiate:
        .. code-block:: python

            from langchain_glimp import ChatGlimpRouter

            llm = ChatGlimpRouter()  # the embedded pair
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

    Raises:
        ConfigError: A setting or a conversation that cannot be served.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``.partial`` holds what was written.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    @property
    def _llm_type(self) -> str:
        return f"{PROVIDER}-chat"

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
            response_metadata=metadata_of(result, self.pair_name),
            usage_metadata=usage_of(result.usage),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, event: Event) -> ChatGenerationChunk | None:
        if isinstance(event, Finished):
            # Once, and last: chunks are added up, usage and metadata with them.
            return ChatGenerationChunk(
                message=AIMessageChunk(
                    content="",
                    response_metadata=metadata_of(event.result, self.pair_name),
                    usage_metadata=usage_of(event.result.usage),
                    chunk_position="last",
                )
            )
        # Text whose kind is still open comes again as Settled.
        if not isinstance(event, TextDelta | Settled) or event.kind is None:
            return None
        if event.kind == "reasoning":
            message = AIMessageChunk(content="", additional_kwargs=reasoning_of(event.text))
        else:
            message = AIMessageChunk(content=event.text)
        return ChatGenerationChunk(message=message)
