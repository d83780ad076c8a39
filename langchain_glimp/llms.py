"""GlimpRouterLLM: the routed pair as a LangChain text model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from langchain_core.callbacks.manager import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor
from pydantic import ConfigDict

from glimp_integrations.adapter import token_usage
from glimp_integrations.trace.events import Event, Finished, KindResolved, TextDelta
from glimp_integrations.trace.trace import RoutedAnswer
from langchain_glimp._base import LangChainRouted
from langchain_glimp._responses import PROVIDER, metadata_of, reasoning_of

__all__ = ["GlimpRouterLLM"]


class GlimpRouterLLM(LangChainRouted, BaseLLM):
    """A text model (``BaseLLM``) whose chain of thought is written by two models.

    A prompt is read as one user message, through each model's own chat template. The text that
    comes back is the answer. Reasoning, trace and usage are in ``generation_info``. See
    :class:`langchain_glimp.ChatGlimpRouter` for the settings.

    Example:
        .. code-block:: python

            from langchain_glimp import GlimpRouterLLM

            llm = GlimpRouterLLM()  # the bundled models
            llm.invoke("What is 17 * 23?")

    Raises:
        ConfigError: A setting or a prompt that cannot be served.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``.partial`` holds what was written.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # A text model returns text, in which a tool call has no place.
    _output_arguments: ClassVar[frozenset[str]] = frozenset({"response_format"})

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        to_chunk = self._chunk if self.streaming else None
        if len(prompts) == 1:  # in this thread, so that Ctrl-C stops the models
            return self._result([self._answer(prompts[0], stop, run_manager, kwargs, to_chunk)])
        # In threads, as Runnable.batch does it, whose callbacks see the caller's context variables.
        with ContextThreadPoolExecutor() as threads:
            answers = threads.map(
                lambda prompt: self._answer(prompt, stop, run_manager, kwargs, to_chunk), prompts
            )
            return self._result(list(answers))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        to_chunk = self._chunk if self.streaming else None
        tasks = [
            asyncio.ensure_future(self._aanswer(prompt, stop, run_manager, kwargs, to_chunk))
            for prompt in prompts
        ]
        try:
            return self._result(await asyncio.gather(*tasks))
        finally:  # if one failed, or the caller was cancelled, the others are of no use
            for task in tasks:
                if not task.cancelling():  # a second cancel would not wait for its models to stop
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer several prompts at the same time, up to ``max_concurrency`` of them.

        Each prompt is a call of its own, as with chat models: if one fails, the others go on.
        """
        # BaseLLM's own method makes one call of all prompts, which fails if one of them does.
        return Runnable.batch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Asynchronous :meth:`batch`."""
        return await Runnable.abatch(
            self, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """The answer's text as it is written; with ``streaming=False``, the whole text at once."""
        if self.streaming is False:
            yield self.invoke(input, config, stop=stop, **kwargs)
        else:
            yield from super().stream(input, config, stop=stop, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Asynchronous :meth:`stream`."""
        if self.streaming is False:
            yield await self.ainvoke(input, config, stop=stop, **kwargs)
        else:
            async for text in super().astream(input, config, stop=stop, **kwargs):
                yield text

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        return self._chunks(self._chunk, prompt, stop, run_manager, kwargs)

    def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        return self._achunks(self._chunk, prompt, stop, run_manager, kwargs)

    def _result(self, results: list[RoutedAnswer]) -> LLMResult:
        generations = [[Generation(text=r.answer, generation_info=self._info(r))] for r in results]
        usage = [token_usage(r.usage) for r in results]
        total = {name: sum(u[name] for u in usage) for name in usage[0]} if usage else {}
        return LLMResult(
            generations=generations,
            llm_output={"token_usage": total, "model_name": self.pair_name},
        )

    def _info(self, result: RoutedAnswer) -> dict[str, Any]:
        return {
            **reasoning_of(result.reasoning),
            **metadata_of(result, self.pair_name),
            "token_usage": token_usage(result.usage),
        }

    def _chunk(self, event: Event) -> GenerationChunk | None:
        if isinstance(event, Finished):
            return GenerationChunk(text="", generation_info=self._info(event.result))
        if isinstance(event, TextDelta | KindResolved) and event.kind == "answer":
            return GenerationChunk(text=event.text)
        return None
