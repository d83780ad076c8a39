"""The routing loop, written once: decisions in, requests out, events to the caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.method.chain import Chain
from glimp_integrations.method.rule import Author, Done, Glimpse, Rule, Write
from glimp_integrations.method.steps import Step, StepUpdate
from glimp_integrations.output.constraints import Plan
from glimp_integrations.runtime.ask_models import stand_in
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.model_stream import ModelStream
from glimp_integrations.runtime.prepare import prepare
from glimp_integrations.runtime.recorder import Recorder
from glimp_integrations.runtime.reply_events import ReplyEvents
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import Event, Finished, StepDone, StepStarted

__all__ = ["route"]

_CHARACTER_TOKENS = 4  # no UTF-8 character has more


async def route(call: Call, speed: PairSpeed | None = None) -> AsyncGenerator[Event, None]:
    """Answer a conversation; yields events, :class:`Finished` last.

    Args:
        call: The conversation and the models; its messages are checked.
        speed: How fast the models are, if it was measured.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``partial`` holds what was written.
    """
    prepared = await prepare(call, speed)
    loop = _Loop(
        call.settings,
        prepared.chain,
        prepared.rule,
        prepared.streams,
        prepared.strategy,
        prepared.recorder,
        ReplyEvents(prepared.chain, prepared.parser),
        prepared.plan_for,
    )
    try:
        async for event in loop.events():
            yield event
    finally:
        for stream in loop.streams.values():
            await stream.aclose()


@dataclass(slots=True)
class _Loop:
    """One conversation on its way."""

    settings: RoutingSettings
    chain: Chain
    rule: Rule
    streams: dict[Author, ModelStream]
    strategy: str
    recorder: Recorder
    reply: ReplyEvents
    plan_for: Callable[[Author], Plan]

    async def events(self) -> AsyncGenerator[Event, None]:
        # 1. Who writes the next step? 2. Let that model write it. 3. Again, until nothing is left.
        while True:
            action = self.rule.action(self.chain.next_step)
            if isinstance(action, Done):
                break
            self.recorder.begin()
            try:
                author, entropy = await self._decide(action)
                async for event in self._write(author, entropy):
                    yield event
            except (BackendError, UnsuitableEndpointError) as error:
                for event in self._fall_back(error):
                    yield event
                for stream in self.streams.values():
                    await stream.cancel()
        for event in self.reply.end():
            yield event
        for stream in self.streams.values():
            await stream.aclose()
        yield Finished(self.recorder.result())

    async def _decide(self, action: Glimpse | Write) -> tuple[Author, float | None]:
        """The next step's author, and H in nats if a glimpse was made."""
        if isinstance(action, Write):
            return action.author, None
        entropy = await self.streams["small"].glimpse(
            self.chain.context, self.chain.room, self.recorder.estimator
        )
        author = self.rule.decide(entropy)
        # Whoever does not write stops: the small model's glimpsed stream, or (overlap) the large
        # model's, which was left running in case it would be wanted again.
        await self.streams["small" if author == "large" else "large"].cancel()
        return author, entropy

    async def _write(self, author: Author, entropy: float | None) -> AsyncGenerator[Event, None]:
        """Let ``author`` write one step."""
        chain, stream = self.chain, self.streams[author]
        step = chain.begin(author, entropy)
        part = chain.parts
        yield StepStarted(
            step.index, author, entropy, step.is_answer, chain.decides_call(step.index)
        )
        while True:
            # A stream that may run on past this step asks for the whole phase at once. Another
            # asks for the step, and a few tokens more: a cap must not fall inside a character,
            # and the chain cuts after it.
            room: int = chain.room
            stop: tuple[str, ...] = ()
            if not self._runs_on(author):
                room = min(room, chain.step_room + _CHARACTER_TOKENS)
                stop = chain.stop
            token = await stream.read(chain.context, room, chain.schema, stop)
            self.recorder.first_token()
            undecided = chain.undecided
            update = chain.take(token) if token is not None else chain.ended(*stream.take_end())
            for event in self.reply.show(update.shown, step, undecided=undecided):
                yield event
            if update.step_over:
                break
        if chain.phase == "answer" and not step.is_answer:
            # An answer begins: what came before it is reasoning, and that is reported first.
            for event in self.reply.resolve_kinds():
                yield event
        if self._must_stop(author, update, part):
            await stream.cancel(discarded=update.discarded)
        if self._warms_prefix_cache(author):
            self.streams["large"].prefill(chain.context)
        yield StepDone(self.recorder.record(step))

    def _must_stop(self, author: Author, update: StepUpdate, part: int) -> bool:
        """Whether the author's stream has to be closed at the end of a step.

        It may run on only if the next step continues exactly the text it has written, and may be
        its own.
        """
        dropped = update.truncated or update.discarded > 0
        return dropped or self.chain.parts != part or not self._runs_on(author)

    def _runs_on(self, author: Author) -> bool:
        """Whether this author's stream is, or may be, still wanted after the step's end."""
        action = self.rule.action(self.chain.next_step)
        if isinstance(action, Glimpse):
            if author == "small":
                return self.strategy != "two_request"
            return self.strategy == "overlap"
        return isinstance(action, Write) and action.author == author

    def _warms_prefix_cache(self, author: Author) -> bool:
        return (
            self.settings.warm_prefix_cache
            and author == "small"
            and isinstance(self.rule.action(self.chain.next_step), Glimpse)
        )

    def _fall_back(self, error: BackendError | UnsuitableEndpointError) -> list[Event]:
        """Go on with the other model if the caller wants that, else raise with the text so far."""
        if isinstance(error, BackendError) and error.context_full:
            raise ConfigError(str(error)) from error
        deputy = stand_in(self.settings, getattr(error, "role", None) or "small")
        last = self.chain.steps[-1] if self.chain.steps else None
        running: Step | None = last if last is not None and last.end is None else None
        if isinstance(error, BackendError):
            # A failed glimpse belongs to the step it was made for.
            error.step = len(self.chain.steps) + (running is None)
        if deputy is None or self.chain.forced is not None or not self.chain.can_change_hands:
            error.partial = self.recorder.result()
            raise error
        self.recorder.errors.append(str(error))
        undecided = self.chain.undecided
        update = self.chain.fall_back(deputy, self.plan_for(deputy))
        if running is None:
            return []
        return [
            *self.reply.show(update.shown, running, undecided=undecided),
            StepDone(self.recorder.record(running)),
        ]
