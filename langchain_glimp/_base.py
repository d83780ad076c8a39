"""What the chat and the text class do alike: start a call, follow it, tell callbacks of steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing, suppress
from typing import Any, Self, TypeVar

from langchain_core.callbacks.manager import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    ahandle_event,
    dispatch_custom_event,
    handle_event,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.load import dumpd
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk
from pydantic import Field, model_validator

from glimp_integrations import io_loop
from glimp_integrations._version import __version__
from glimp_integrations.adapter import RoutedModel
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string
from glimp_integrations.settings import PLACES, stops_of
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.events import Event, Finished, to_dict
from glimp_integrations.trace.trace import RoutedAnswer
from langchain_glimp._convert import PROVIDER

__all__ = ["STEP_EVENT", "LangChainRouted"]

Chunk = TypeVar("Chunk", GenerationChunk, ChatGenerationChunk)

STEP_EVENT = "glimprouter"
"""Name of the custom events that tell of steps."""

# Arguments LangChain itself hands down to an implementation.
_FRAMEWORK = ("stream", "ls_structured_output_format")


class LangChainRouted(RoutedModel):
    """Fields and calls shared by ``ChatGlimpRouter`` and ``GlimpRouterLLM``."""

    # None, not False: LangChain takes a False that was set for a ban, and sets it on every copy.
    streaming: bool | None = Field(
        default=None,
        description="True: stream inside invoke too, so that callbacks see tokens. False: never "
        "stream. None: as the caller asks.",
    )
    step_events: bool = Field(
        default=False,
        description="Send every routing event to callbacks as a custom event 'glimprouter'. "
        "A bare model's stream() has no run to send them from; inside a chain it has.",
    )

    @model_validator(mode="after")
    def _set_glimp_version(self) -> Self:
        # Traces tell which packages took part; each layer adds its own.
        self._add_version("glimp-integrations", __version__)  # type: ignore[attr-defined]
        return self

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=kwargs.get("model", self.pair_name),
            ls_model_type="chat" if isinstance(self, BaseChatModel) else "llm",
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stop or self.stop:
            params["ls_stop"] = stops_of(stop or self.stop)
        return params

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # LangChain's caches take two models with equal parameters for one. Nested, because
        # LangChain writes names of its own (stop) beside these.
        return {"model_name": self.pair_name, "routing": self.identity}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """What is stored otherwise than it is held."""
        stored = {} if self.prices is None else {"prices": self.prices.model_dump()}
        # Infinity is no JSON; loading reads the text.
        endless = {name: plain(getattr(self, name)) for name in ("threshold", "timeout")}
        return stored | {name: text for name, text in endless.items() if isinstance(text, str)}

    @property
    def _serialized(self) -> dict[str, Any]:
        # Part of LangChain's cache key; kept from the first call on, it would hide later changes.
        return dict(dumpd(self))

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether ``langchain_core.load`` can store it: models named by model strings can be."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where secrets are read from when a stored model is loaded."""
        secret = {"api_key": "GLIMP_API_KEY"}
        for name, place in PLACES.items():
            output = getattr(self, name)
            if isinstance(output, str) and public_model_string(output) != output:
                secret[name] = place  # its URL holds a password
        return secret

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """The package, so that ``load(..., valid_namespaces=["langchain_glimp"])`` finds it."""
        return cls.__module__.split(".")

    def get_token_ids(self, text: str) -> list[int]:
        """The large model's token ids of a text.

        Raises:
            ConfigError: Its backend cannot tell; ``custom_get_token_ids`` can.
        """
        custom = self.custom_get_token_ids  # type: ignore[attr-defined]
        if custom is not None:
            return list(custom(text))
        large = self.router.large
        ids = io_loop.call(lambda: large.tokenize(text))
        if ids is None:
            raise ConfigError(
                f"{large.label} does not count tokens: pass custom_get_token_ids=..., "
                "or name the model's tokenizer on its backend"
            )
        return list(ids)

    def _answer(
        self,
        messages: Any,
        stop: Sequence[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
        to_chunk: Callable[[Event], Chunk | None] | None = None,
    ) -> RoutedAnswer:
        """The result of one call. With ``to_chunk``, callbacks see the tokens."""
        if not self._watched(run_manager, to_chunk):
            changes, output = self.call_changes(stop, _without_framework(kwargs))
            return self.router.run(messages, output, **changes)
        with closing(self._started(messages, stop, kwargs)) as events:
            for event in events:
                if self.step_events:
                    _tell(run_manager, event)
                if to_chunk and run_manager and (chunk := to_chunk(event)) is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                if isinstance(event, Finished):
                    return event.result
        raise RuntimeError("the routing loop ended without a result; please report this")

    async def _aanswer(
        self,
        messages: Any,
        stop: Sequence[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
        to_chunk: Callable[[Event], Chunk | None] | None = None,
    ) -> RoutedAnswer:
        """Asynchronous :meth:`_answer`."""
        if not self._watched(run_manager, to_chunk):
            changes, output = self.call_changes(stop, _without_framework(kwargs))
            return await self.router.arun(messages, output, **changes)
        async with aclosing(self._astarted(messages, stop, kwargs)) as events:
            async for event in events:
                if self.step_events:
                    await _atell(run_manager, event)
                if to_chunk and run_manager and (chunk := to_chunk(event)) is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                if isinstance(event, Finished):
                    return event.result
        raise RuntimeError("the routing loop ended without a result; please report this")

    def _watched(self, run_manager: object, to_chunk: object) -> bool:
        """Whether anybody looks at the events; handing each from loop to loop has its price."""
        return self.step_events or bool(to_chunk and run_manager)

    def _started(
        self, messages: Any, stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> Generator[Event, None, None]:
        """Events of one call; closing the iterator stops the models."""
        changes, output = self.call_changes(stop, _without_framework(kwargs))
        events: Any = self.router.stream(messages, output, **changes)
        return events  # type: ignore[no-any-return]

    def _astarted(
        self, messages: Any, stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """Asynchronous :meth:`_started`."""
        # No generator around it: a loop that ends closes all of its generators at once, and each
        # has to be the only one that closes what is inside of it.
        changes, output = self.call_changes(stop, _without_framework(kwargs))
        return self.router.astream(messages, output, **changes)

    def _chunks(
        self,
        to_chunk: Callable[[Event], Chunk | None],
        messages: Any,
        stop: Sequence[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> Generator[Chunk, None, None]:
        """Events as the framework's chunks, with the callbacks of new text."""
        with closing(self._started(messages, stop, kwargs)) as events:
            for event in events:
                if self.step_events:
                    _tell(run_manager, event)
                if (chunk := to_chunk(event)) is not None:
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _achunks(
        self,
        to_chunk: Callable[[Event], Chunk | None],
        messages: Any,
        stop: Sequence[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[Chunk, None]:
        """Asynchronous :meth:`_chunks`."""
        async with aclosing(self._astarted(messages, stop, kwargs)) as events:
            async for event in events:
                if self.step_events:
                    await _atell(run_manager, event)
                if (chunk := to_chunk(event)) is not None:
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk


def _without_framework(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _FRAMEWORK}


def _tell(run_manager: CallbackManagerForLLMRun | None, event: Event) -> None:
    if run_manager is not None:
        handle_event(*_custom(run_manager, event), **_run(run_manager))
        return
    # LangChain streams without a run manager: the run around the model is the one to tell.
    with suppress(RuntimeError):  # there is none
        dispatch_custom_event(STEP_EVENT, to_dict(event))


async def _atell(run_manager: AsyncCallbackManagerForLLMRun | None, event: Event) -> None:
    if run_manager is not None:
        await ahandle_event(*_custom(run_manager, event), **_run(run_manager))
        return
    with suppress(RuntimeError):
        await adispatch_custom_event(STEP_EVENT, to_dict(event))


def _custom(run_manager: Any, event: Event) -> tuple[Any, ...]:
    return (
        run_manager.handlers,
        "on_custom_event",
        "ignore_custom_event",
        STEP_EVENT,
        to_dict(event),
    )


def _run(run_manager: Any) -> dict[str, Any]:
    return {
        "run_id": run_manager.run_id,
        "tags": run_manager.tags,
        "metadata": run_manager.metadata,
    }
