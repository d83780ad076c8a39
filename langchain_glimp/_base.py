"""What the chat model and the text model share: starting a call, and reporting its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing, suppress
from typing import Any, Generic, Self, TypeVar

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
from langchain_glimp._responses import PROVIDER

__all__ = ["STEP_EVENT", "LangChainRouted"]

Chunk = TypeVar("Chunk", GenerationChunk, ChatGenerationChunk)

STEP_EVENT = "glimprouter"
"""The name of the custom events that carry routing events."""

# Arguments that LangChain itself passes to an implementation, beyond those of the caller.
_FRAMEWORK = ("stream", "ls_structured_output_format")


class LangChainRouted(RoutedModel):
    """The base of ``ChatGlimpRouter`` and ``GlimpRouterLLM``.

    Its fields are the routing settings and the two below.
    """

    # The default is None, not False: LangChain takes a False that was set for a ban on streaming,
    # and copying a model sets every field.
    streaming: bool | None = Field(
        default=None,
        description="True: invoke streams as well, so that callbacks see every token. False: no "
        "call streams. None: a call streams if the caller asks for a stream.",
    )
    step_events: bool = Field(
        default=False,
        description="Send every routing event to callbacks as a custom event with the name "
        "'glimprouter'. A model's own stream() has no run to send them from; inside a chain, "
        "stream() sends them from the chain's run.",
    )

    @model_validator(mode="after")
    def _set_glimp_version(self) -> Self:
        # Traces show the versions of all packages that took part; each package adds its own.
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
        # LangChain's caches take two models with equal parameters for the same model. The settings
        # are nested, because LangChain adds keys of its own (such as stop) next to these.
        return {"model_name": self.pair_name, "routing": self.identity}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """Fields whose stored value differs from the field's own."""
        known = self.known_prices
        prices = {} if known is None else {"prices": known.model_dump()}
        # Infinity has no JSON. It is stored as a text, which loading reads.
        numbers = {name: plain(getattr(self, name)) for name in ("threshold", "timeout")}
        return prices | {name: text for name, text in numbers.items() if isinstance(text, str)}

    @property
    def _serialized(self) -> dict[str, Any]:
        # A part of LangChain's cache key. LangChain itself computes it once, at the first call, and
        # would not see settings that change later.
        return dict(dumpd(self))

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether ``langchain_core.load`` can store it; it can if the models are model strings."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The environment variables from which loading a stored model reads its secrets."""
        variables = {"api_key": "GLIMP_API_KEY"}
        for role, variable in PLACES.items():
            model = getattr(self, role)
            if isinstance(model, str) and public_model_string(model) != model:
                variables[role] = variable  # the model string's URL holds a password
        return variables

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """The package, so that ``load(..., valid_namespaces=["langchain_glimp"])`` finds it."""
        return cls.__module__.split(".")

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of a text's tokens, of the large model's tokenizer.

        Raises:
            ConfigError: The large model's backend has no tokenizer; pass
                ``custom_get_token_ids``.
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
        """The result of one call.

        Args:
            messages: The conversation, converted; or a prompt.
            stop: Stop strings of this call.
            run_manager: LangChain's callbacks of this call.
            kwargs: The call's other arguments.
            to_chunk: Makes chunks of events, so that callbacks see every token.
        """
        if not self._reports_events(run_manager, to_chunk):
            changes, output = self.call_changes(stop, _without_framework(kwargs))
            return self.router.run(messages, output, **changes)
        last = _LastEvent(to_chunk)
        with closing(self._chunks(last.to_chunk, messages, stop, run_manager, kwargs)) as chunks:
            for _ in chunks:
                pass
        return last.result

    async def _aanswer(
        self,
        messages: Any,
        stop: Sequence[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
        to_chunk: Callable[[Event], Chunk | None] | None = None,
    ) -> RoutedAnswer:
        """Asynchronous :meth:`_answer`."""
        if not self._reports_events(run_manager, to_chunk):
            changes, output = self.call_changes(stop, _without_framework(kwargs))
            return await self.router.arun(messages, output, **changes)
        last = _LastEvent(to_chunk)
        chunks = self._achunks(last.to_chunk, messages, stop, run_manager, kwargs)
        async with aclosing(chunks):
            async for _ in chunks:
                pass
        return last.result

    def _reports_events(self, run_manager: object, to_chunk: object) -> bool:
        """Whether anything needs the events. Passing each from loop to loop takes time."""
        return self.step_events or bool(to_chunk and run_manager)

    def _events(
        self, messages: Any, stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> Generator[Event, None, None]:
        """The events of one call. Closing the iterator stops the models."""
        changes, output = self.call_changes(stop, _without_framework(kwargs))
        events: Any = self.router.stream(messages, output, **changes)
        return events  # type: ignore[no-any-return]

    def _aevents(
        self, messages: Any, stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """Asynchronous :meth:`_events`."""
        # The router's stream itself, not an async generator around it. A loop that ends closes all
        # of its async generators at the same time, and one that another is just closing fails.
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
        """The framework's chunks of one call; callbacks are notified of each."""
        with closing(self._events(messages, stop, kwargs)) as events:
            for event in events:
                if self.step_events:
                    _dispatch(run_manager, event)
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
        async with aclosing(self._aevents(messages, stop, kwargs)) as events:
            async for event in events:
                if self.step_events:
                    await _adispatch(run_manager, event)
                if (chunk := to_chunk(event)) is not None:
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk


class _LastEvent(Generic[Chunk]):
    """Keeps the last event of a call, which holds the result.

    Args:
        to_chunk: Makes chunks of the events; ``None``: there are no chunks.
    """

    def __init__(self, to_chunk: Callable[[Event], Chunk | None] | None) -> None:
        self._to_chunk: Callable[[Event], Chunk | None] | None = to_chunk
        self._event: Event | None = None

    def to_chunk(self, event: Event) -> Chunk | None:
        """Keep an event, and make its chunk."""
        self._event = event
        return None if self._to_chunk is None else self._to_chunk(event)

    @property
    def result(self) -> RoutedAnswer:
        """The result of the call, after its last event."""
        assert isinstance(self._event, Finished), self._event  # the router promises it comes last
        return self._event.result


def _without_framework(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments without those that are LangChain's own."""
    return {name: value for name, value in kwargs.items() if name not in _FRAMEWORK}


def _dispatch(run_manager: CallbackManagerForLLMRun | None, event: Event) -> None:
    """Send one routing event to callbacks."""
    if run_manager is not None:
        handle_event(*_custom(run_manager, event), **_run(run_manager))
        return
    # LangChain streams without a run manager. The event is then sent from the run around the model.
    with suppress(RuntimeError):  # there is no such run
        dispatch_custom_event(STEP_EVENT, to_dict(event))


async def _adispatch(run_manager: AsyncCallbackManagerForLLMRun | None, event: Event) -> None:
    if run_manager is not None:
        await ahandle_event(*_custom(run_manager, event), **_run(run_manager))
        return
    with suppress(RuntimeError):
        await adispatch_custom_event(STEP_EVENT, to_dict(event))


def _custom(run_manager: Any, event: Event) -> tuple[Any, ...]:
    """The positional arguments of LangChain's ``handle_event`` for a custom event."""
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
