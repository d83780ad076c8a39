"""GlimpRouter: the method without a framework."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from copy import deepcopy
from typing import Any, Self

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.backends.model_strings import resolve
from glimp_integrations.calibrated_threshold import CalibratedShare, Conditions
from glimp_integrations.callers import Line, users_line
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.conversation.prompt import TEXT, build
from glimp_integrations.conversation.text_agents import read_by_marks
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.accounts import Accounts
from glimp_integrations.method.large_share import LargeShare, Prior
from glimp_integrations.method.policy import RoutingPolicy
from glimp_integrations.method.priors import prior_of, scaled
from glimp_integrations.method.rule import Threshold
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.runtime import pair_info
from glimp_integrations.runtime.call import Call, Events, call_hooks, hooked
from glimp_integrations.runtime.failures import asked
from glimp_integrations.runtime.loop import route
from glimp_integrations.runtime.measuring import conditions
from glimp_integrations.runtime.speed import PairSpeed, measure
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import Event, Finished
from glimp_integrations.trace.trace import RoutedAnswer
from glimp_integrations.unicode_text import check_text

__all__ = ["FIXED", "GlimpRouter", "result_of"]

FIXED = frozenset({"small", "large", "pair", "api_key"})
"""Settings that belong to the router; all others may change from call to call."""


class GlimpRouter:
    """Two models write one chain of thought, routed by the entropy of each step's first token.

    Method: arXiv 2601.05110, section 3.

    Args:
        small: A backend, a model string such as ``"llamacpp:/models/small.gguf"``, or ``None``.
        large: Likewise. With neither, those that the environment names, or the bundled models
            (fetched on first use).
        settings: Ready settings instead of keyword arguments.
        **options: Fields of :class:`RoutingSettings`.

    Raises:
        ConfigError: An option has an unknown name or an impossible value.

    Example:
        >>> router = GlimpRouter(threshold=1.0)            # doctest: +SKIP
        >>> print(router.run("What is 17 * 23?").answer)   # doctest: +SKIP
    """

    def __init__(
        self,
        small: Backend | str | None = None,
        large: Backend | str | None = None,
        *,
        settings: RoutingSettings | None = None,
        **options: Any,
    ) -> None:
        if settings is None:
            named = {"small": small, "large": large}
            options |= {role: model for role, model in named.items() if model is not None}
            settings = RoutingSettings(**options)
        self.settings = settings
        self._pair = resolve(settings.small, settings.large, settings.api_key, settings.pair)
        self.known_info: pair_info.PairInfo | None = None
        self.speed: PairSpeed | None = None
        self._shares: dict[float, LargeShare] = {}
        self.accounts = Accounts()

    def __getstate__(self) -> dict[str, Any]:
        # For pickles, which leave out what the settings' pickles leave out.
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(settings=state["settings"])  # type: ignore[misc]

    def __copy__(self) -> Self:
        return self._with(self.settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = self._with(self.settings)
        # An adapter's settings are the adapter, which holds this router.
        memo[id(self)] = copied
        copied.settings = deepcopy(self.settings, memo)
        return copied

    def _with(self, settings: RoutingSettings) -> Self:
        # Copies stay in the process, so they keep the keys, and share the models.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__, settings=settings)
        return copied

    def fresh(self) -> Self:
        """The same models and settings, with nothing learned from calls.

        What a wanted share and ``route="when_it_pays"`` go by begins anew. The models are shared;
        close one of both routers.
        """
        copied = self._with(self.settings)
        copied._shares, copied.accounts = {}, Accounts()
        return copied

    @property
    def small(self) -> Backend:
        """The small model."""
        return self._pair.small

    @property
    def large(self) -> Backend:
        """The large model."""
        return self._pair.large

    def policy_of(self, settings: RoutingSettings | None = None) -> RoutingPolicy:
        """Who decides with these settings. What a wanted share learns, the router keeps.

        Args:
            settings: Those of a call; ``None``: the router's own.
        """
        settings = self.settings if settings is None else settings
        if settings.policy is not None:
            policy: RoutingPolicy = settings.policy
            return policy
        if settings.large_share is None:
            return Threshold(settings.threshold)
        share = settings.large_share
        return self._shares.setdefault(share, LargeShare(share, self._prior(share)))

    def _prior(self, share: float) -> Prior:
        """Values of H to begin with: measured for this model, or scaled to a calibration."""
        prior = prior_of(self.small.name)
        if isinstance(share, CalibratedShare):
            return scaled(prior, share, share.calibration.threshold)
        return prior

    def run(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT, **changes: Any
    ) -> RoutedAnswer:
        """Answer a conversation.

        Works inside a running event loop and from many threads.

        Args:
            messages: A question, or messages with ``role`` and ``content``.
            output: Tools to call, or a schema for the answer.
            **changes: Routing settings for this call only.

        Raises:
            ConfigError: Impossible settings or an impossible conversation.
            UnsuitableEndpointError: A server lacks what routing needs.
            BackendError: A model failed; ``.partial`` holds what was written.
        """
        events = self._events(messages, changes, output, streamed=False)
        return io_loop.call(lambda: result_of(events()))

    async def arun(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT, **changes: Any
    ) -> RoutedAnswer:
        """Asynchronous :meth:`run`. Cancelling it stops the models."""
        events = self._events(messages, changes, output, streamed=False)
        return await io_loop.acall(lambda: result_of(events()))

    def stream(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT, **changes: Any
    ) -> Iterator[Event]:
        """Answer a conversation, event by event; :class:`Finished` comes last.

        Closing the iterator stops the models.
        """
        # No generator itself: context variables (tracing spans) are those of this call.
        return io_loop.iterate(self._events(messages, changes, output))

    def astream(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT, **changes: Any
    ) -> AsyncGenerator[Event, None]:
        """Asynchronous :meth:`stream`."""
        return io_loop.aiterate(self._events(messages, changes, output))

    def astream_to(
        self,
        deliver: Callable[[Event], None],
        messages: str | Sequence[Message],
        output: OutputSpec = TEXT,
        **changes: Any,
    ) -> AsyncGenerator[Event, None]:
        """As :meth:`astream`, for a server on the models' own loop.

        What is read while the generator is waited for may go to ``deliver``, each event in its
        place among those that are yielded: it comes after those that were, and before the next.
        On another loop all events are yielded.
        """
        return io_loop.aiterate(self._events(messages, changes, output), deliver)

    def unstreamed(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT, **changes: Any
    ) -> AsyncGenerator[Event, None]:
        """As :meth:`astream`, for whoever shows no text before all of it is there.

        The text of a step may come in one piece, up to a second late. That takes this process
        less time than an event for every token.
        """
        return io_loop.aiterate(self._events(messages, changes, output, streamed=False))

    def pair_info(self) -> pair_info.PairInfo:
        """What both models have in common; they are asked, and loaded, by the first call.

        Raises:
            BackendError: One cannot be reached.
            UnsuitableEndpointError: One cannot be used.
        """
        if self.known_info is None:
            self.known_info = io_loop.call(lambda: pair_info.ask_once(self.small, self.large))
        return self.known_info

    def measure(self) -> PairSpeed:
        """Measure the pair's speed; strategy ``"auto"`` goes by it from then on.

        Takes some 400 tokens of each model. Nothing else should run meanwhile.

        Raises:
            BackendError: A model failed.
            UnsuitableEndpointError: One cannot be used.
        """
        return io_loop.call(self._measure)

    async def ameasure(self) -> PairSpeed:
        """Asynchronous :meth:`measure`."""
        return await io_loop.acall(self._measure)

    async def _measure(self) -> PairSpeed:
        self.speed = await measure(self.small, self.large)
        return self.speed

    def conditions(self) -> Conditions:
        """What a threshold of this pair belongs to; see :mod:`glimp_integrations.calibration`.

        Raises:
            BackendError: The small model cannot be reached.
            UnsuitableEndpointError: It cannot be glimpsed at.
        """
        return io_loop.call(lambda: conditions(self.settings, self.small, self.large))

    def token_ids(self, text: str) -> list[int]:
        """The large model's ids of a text, nothing added to it.

        Raises:
            ConfigError: Its backend cannot tell.
            BackendError: The model failed.
        """

        async def read() -> list[int] | None:
            with asked("large", self.large):
                return await self.large.tokenize(text)

        check_text("the text to count", text)
        # Splitters count empty texts, too, and servers may refuse them.
        ids = io_loop.call(read) if text else []
        if ids is None:
            raise ConfigError(
                f"{self.large.label} does not count tokens: pass tokenizer='<Hugging Face id of "
                "the model>' to its backend (extra hf), or count with another tokenizer"
            )
        return ids

    def count_tokens(
        self, messages: str | Sequence[Message], output: OutputSpec = TEXT
    ) -> int | None:
        """Tokens of a conversation as the large model reads it; ``None``: nobody counted.

        Raises:
            ConfigError: An impossible conversation, or one that the template refuses.
            BackendError: The model failed.
        """
        checked = check_messages(messages)

        async def count() -> int | None:
            with asked("large", self.large):
                prompt = await build(
                    self.large,
                    checked,
                    output,
                    must_fit=False,
                    keep_reasoning=self.settings.keep_reasoning,
                    think_tags=self.settings.think_tags,
                )
            return prompt.tokens

        return io_loop.call(count)

    def make_room(self, conversations: int) -> None:
        """Give a context window to each of so many conversations at once.

        This concerns GGUF files that llama.cpp runs in this process and that are not loaded yet, as
        far as the memory reaches; see :func:`glimp_integrations.backends.room.make_room`. Yours,
        given as backends, stay as you made them.
        """
        from glimp_integrations.backends.room import make_room

        given = (self.settings.small, self.settings.large)
        models = zip((self.small, self.large), given, strict=True)
        make_room([own for own, model in models if not isinstance(model, Backend)], conversations)

    def close(self) -> None:
        """Release backends that were made from model strings. Never touches yours."""
        for backend in self._pair.owned:
            backend.close()

    async def aclose(self) -> None:
        """Asynchronous :meth:`close`."""
        for backend in self._pair.owned:
            await io_loop.acall(backend.aclose)

    def __enter__(self) -> GlimpRouter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> GlimpRouter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _events(
        self,
        messages: str | Sequence[Message],
        changes: dict[str, Any],
        output: OutputSpec,
        *,
        streamed: bool = True,
    ) -> Events:
        """The events of a call that is made now; it is checked where it runs."""
        line = users_line()
        return lambda: self._checked(messages, changes, output, line, streamed)()

    def _checked(
        self,
        messages: str | Sequence[Message],
        changes: dict[str, Any],
        output: OutputSpec,
        line: Line,
        streamed: bool,
    ) -> Events:
        checked = check_messages(messages)
        settings = self.settings
        if fixed := sorted(FIXED & set(changes)):
            raise ConfigError(f"{', '.join(fixed)}: belongs to the router; make another one")
        if "untagged_answer" not in changes and (changes.get("stop") or read_by_marks(checked)):
            # Whoever says where a text ends, or by which marks it is read, reads all of it.
            changes = {**changes, "untagged_answer": "whole"}
        if changes:
            settings = settings.changed(changes)
        policy = self.policy_of(settings)
        # Hooks see all events, in order.
        deliver = io_loop.DELIVER.get() if streamed and not call_hooks else None
        call = Call(
            settings,
            self.small,
            self.large,
            checked,
            output,
            line,
            policy,
            streamed=streamed,
            deliver=deliver,
        )
        return hooked(call, lambda: route(call, self.speed, self.accounts))


async def result_of(events: AsyncGenerator[Event, None]) -> RoutedAnswer:
    """The result at the end of a call's events."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished):
                return event.result
    raise RuntimeError("the routing loop ended without a result; please report this")
