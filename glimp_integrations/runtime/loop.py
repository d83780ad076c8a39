"""The routing loop, written once: decisions in, requests out, events to the caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.method.chain import Author, Chain, Done, Glimpse, Step, StepUpdate, Write
from glimp_integrations.output.constraints import Plan
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.model_stream import ModelStream
from glimp_integrations.runtime.prepare import prepare, stand_in
from glimp_integrations.runtime.recorder import Recorder
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.runtime.text_kinds import KindResolver
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import (
    Event,
    Finished,
    KindResolved,
    StepDone,
    StepStarted,
    TextDelta,
    ToolCallDelta,
)

__all__ = ["route"]

_CHARACTER_TOKENS = 4  # no UTF-8 character has more


async def route(asked: Call, speed: PairSpeed | None = None) -> AsyncGenerator[Event, None]:
    """Answer a conversation; yields events, :class:`Finished` last.

    Args:
        asked: What is asked of whom; its messages are checked by :func:`prompt.check_messages`.
        speed: What the pair's tokens and requests take, if it was measured.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``partial`` holds what was written.
    """
    ready = await prepare(asked, speed)
    call = _Call(
        asked.settings,
        ready.chain,
        ready.streams,
        ready.strategy,
        ready.recorder,
        KindResolver(ready.chain),
        ready.reader,
        ready.replan,
    )
    try:
        async for event in call.events():
            yield event
    finally:
        for stream in call.streams.values():
            await stream.aclose()


@dataclass(slots=True)
class _Call:
    """One question on its way."""

    settings: RoutingSettings
    chain: Chain
    streams: dict[Author, ModelStream]
    strategy: str
    recorder: Recorder
    kind_resolver: KindResolver
    reader: ToolCallParser
    replan: Callable[[Author], Plan]
    settled: bool = False

    async def events(self) -> AsyncGenerator[Event, None]:
        while True:
            action = self.chain.action
            if isinstance(action, Done):
                break
            self.recorder.begin()
            try:
                author, entropy = await self._decide(action)
                async for event in self._write(author, entropy):
                    yield event
            except (BackendError, UnsuitableEndpointError) as error:
                for event in self._failed(error):
                    yield event
            else:
                continue
            for stream in self.streams.values():
                await stream.cancel()
        for event in self._told(self.kind_resolver.settle()):
            yield event
        for event in self._called(self.reader.end(), settled=self.settled):
            yield event
        for stream in self.streams.values():
            await stream.aclose()
        yield Finished(self.recorder.result())

    async def _decide(self, action: Glimpse | Write) -> tuple[Author, float | None]:
        if isinstance(action, Write):
            return action.author, None
        small = self.streams["small"]
        entropy = await small.glimpse(self.chain.context, self.chain.room, self.recorder.estimator)
        author = self.chain.decide(entropy)
        # Whoever does not write stops: the small model's glimpsed stream, or (overlap) the large
        # model's, which was left running in case it would be wanted again.
        await self.streams["small" if author == "large" else "large"].cancel()
        return author, entropy

    async def _write(self, author: Author, entropy: float | None) -> AsyncGenerator[Event, None]:
        chain, stream = self.chain, self.streams[author]
        step = chain.begin(author, entropy)
        part = chain.parts
        answering = step.is_answer
        decides = chain.decides_call(step.index)
        yield StepStarted(step.index, author, entropy, answering, decides)
        while True:
            # Who may run on past this step asks for the whole phase at once.
            # The step's cap must not cut a character: a few tokens more, and the chain cuts.
            room: int = chain.room
            stop: tuple[str, ...] = ()
            if not self._runs_on(author):
                room = min(room, chain.step_room + _CHARACTER_TOKENS)
                stop = chain.stop
            token = await stream.read(chain.context, room, chain.schema, stop)
            self.recorder.first_token()
            undecided = chain.undecided
            kept = chain.take(token) if token is not None else chain.ended(*stream.take_end())
            for event in self._show(kept, step, undecided=undecided):
                yield event
            if kept.step_over:
                break
        if chain.phase == "answer" and not answering:
            # An answer begins: what came before it is reasoning, and is told first.
            for event in self._told(self.kind_resolver.settle()):
                yield event
        if kept.truncated or kept.discarded or chain.parts != part or not self._runs_on(author):
            await stream.cancel(discarded=kept.discarded)
        if (
            self.settings.warm_prefix_cache
            and author == "small"
            and isinstance(chain.action, Glimpse)
        ):
            self.streams["large"].prefill(chain.context)
        yield StepDone(self.recorder.record(step))

    def _runs_on(self, author: Author) -> bool:
        """Whether this author's stream is, or may be, still wanted behind the step's end."""
        action = self.chain.action
        if isinstance(action, Glimpse):
            return (
                self.strategy != "two_request"
                if author == "small"
                else (self.strategy == "overlap")
            )
        return isinstance(action, Write) and action.author == author

    def _show(self, kept: StepUpdate, step: Step, *, undecided: bool) -> list[Event]:
        return self._told(self.kind_resolver.show(kept.shown, step, undecided=undecided))

    def _told(self, events: list[Event]) -> list[Event]:
        """Events with tool calls taken out of the answer's text."""
        if not self.chain.plan.names:
            return events
        told: list[Event] = []
        for event in events:
            if isinstance(event, TextDelta | KindResolved) and event.kind == "answer":
                self.settled = isinstance(event, KindResolved)
                told += self._called(self.reader.feed(event.text), settled=self.settled)
            else:
                told.append(event)
        return told

    def _called(self, pieces: list[str | ToolCallDelta], *, settled: bool) -> list[Event]:
        """Pieces as events. ``settled``: their text was shown before its kind was known."""
        step = self.chain.steps[-1] if self.chain.steps else None
        told: list[Event] = []
        for piece in pieces:
            if isinstance(piece, ToolCallDelta):
                told.append(piece)
            elif settled or step is None:
                told.append(KindResolved(piece, "answer"))
            else:
                told.append(TextDelta(piece, step.index, step.author, "answer"))
        return told

    def _failed(self, error: BackendError | UnsuitableEndpointError) -> list[Event]:
        """Go on with the other model if the caller wants that, else raise with the text so far."""
        if isinstance(error, BackendError) and error.context_full:
            raise ConfigError(str(error)) from error
        alone = stand_in(self.settings, getattr(error, "role", None) or "small")
        running = self.chain.steps[-1] if self.chain.steps else None
        if isinstance(error, BackendError):
            # A failed glimpse belongs to the step it was made for.
            error.step = len(self.chain.steps) + (running is None or running.end is not None)
        if alone is None or self.chain.forced is not None or not self.chain.can_change_hands:
            error.partial = self.recorder.result()
            raise error
        self.recorder.errors.append(str(error))
        undecided = self.chain.undecided
        broken = running is not None and running.end is None
        kept = self.chain.fall_back(alone, self.replan(alone))
        if running is None or not broken:
            return []
        return [
            *self._show(kept, running, undecided=undecided),
            StepDone(self.recorder.record(running)),
        ]
