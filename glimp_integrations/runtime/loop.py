"""The routing loop, written once: decisions in, requests out, events to the caller."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from glimp_integrations.errors import BackendError, ConfigError, GlimpError, ModelError
from glimp_integrations.method.accounts import Accounts
from glimp_integrations.method.policy import (
    Author,
    CloseThinking,
    Done,
    Glimpse,
    Glimpsed,
    StepStart,
    Stop,
    Write,
    WriteAlone,
)
from glimp_integrations.method.reply import Reply
from glimp_integrations.method.rule import Action, name_of
from glimp_integrations.method.steps import Step, StepUpdate
from glimp_integrations.runtime.call import WHEN_OVER, Call, WhenOver
from glimp_integrations.runtime.failures import stand_in
from glimp_integrations.runtime.kinds import (
    RoutingCostWarning,
    kind_of,
    may_leave_routing,
    outcome_of,
)
from glimp_integrations.runtime.prepare import Prepared, prepare, within
from glimp_integrations.runtime.recorder import Recorder
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.runtime.taker import Taker
from glimp_integrations.trace.events import Event, Finished, StepDone, StepStarted
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["route"]

_log = logging.getLogger(__name__)

_CHARACTER_TOKENS = 4  # no UTF-8 character has more


async def route(
    call: Call, speed: PairSpeed | None = None, accounts: Accounts | None = None
) -> AsyncGenerator[Event, None]:
    """Answer a conversation; yields events, :class:`Finished` last.

    Args:
        call: The conversation and the models; its messages are checked.
        speed: How fast the models are, if it was measured.
        accounts: What calls took so far; with them, the large model works alone where it takes
            less. ``None``: the call is routed.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``partial`` holds what was written.
    """
    kind = kind_of(call) if accounts is not None and may_leave_routing(call.settings) else None
    plan = accounts.plan(kind) if accounts is not None and kind is not None else None
    when_over, finished = WHEN_OVER.get(), False
    left: RoutedAnswer | None = None
    WHEN_OVER.set(None)  # a call that a backend or a policy makes meanwhile is another one
    if plan is not None:
        call = replace(call, plan=plan)
        if plan.warning:
            warnings.warn_explicit(plan.warning, RoutingCostWarning, *call.line)
    try:
        ready = await _prepared(call, speed)
        try:
            async for event in _Loop(call, ready).events():
                if isinstance(event, Finished):
                    # Now, because whoever has this event may read no further.
                    if accounts is not None and kind is not None:
                        _account(accounts, kind, call, event.result)
                    if ready.recorder.errors:
                        _ask_again(call)
                    finished = True
                    if when_over is not None:
                        when_over(event.result, True)
                yield event
        finally:
            running = ready.recorder.running
            for stream in ready.streams.values():
                await stream.aclose()
            _learn(ready)
            if not finished:
                left = _left(ready.recorder, running, when_over)
    except GlimpError as error:
        _ask_again(call)
        if error.partial is not None and left is not None:
            # With what the other model's open request came to.
            error.partial = left
        raise


async def _prepared(call: Call, speed: PairSpeed | None) -> Prepared:
    deadline = call.settings.deadline
    try:
        async with within(deadline, time.perf_counter()):
            return await prepare(call, speed)
    except TimeoutError:
        raise BackendError(
            f"deadline={deadline:g} s passed before the models were ready to write: give more "
            "time, or load them before (GlimpRouter.pair_info() does)",
            model=f"{call.small.name}+{call.large.name}",
        ) from None


def _account(accounts: Accounts, kind: str, call: Call, result: RoutedAnswer) -> None:
    # A call in which a model failed says nothing about the next one.
    if not result.trace.errors:
        accounts.record(kind, outcome_of(call, result))


def _learn(ready: Prepared) -> None:
    """Tell the policy what the call showed, if it learns. That must not cost the answer."""
    policy = ready.rule.policy
    learn = getattr(policy, "learn", None)
    if learn is None:
        return
    try:
        learn(ready.chain.steps)
    except Exception as error:
        _log.warning("policy %s: learn() raised %s", name_of(policy), type(error).__name__)


def _left(
    recorder: Recorder, running: list[Author], when_over: WhenOver | None
) -> RoutedAnswer | None:
    """What a call came to that was left, or failed; it is told. That must not hide why."""
    try:
        left = recorder.left(running)
        if when_over is not None:
            when_over(left, False)
    except Exception as error:
        _log.warning("what a call took is not told: it raised %s", type(error).__name__)
        return None
    return left


def _ask_again(call: Call) -> None:
    """After a failure: what is known about the servers may be wrong, or no longer right."""
    for backend in call.models.values():
        backend.ask_again()


@dataclass(slots=True)
class _Loop:
    """One conversation on its way."""

    call: Call
    ready: Prepared

    async def events(self) -> AsyncGenerator[Event, None]:
        ready = self.ready
        # 1. Who writes the next step? 2. Let that model write it. 3. Again, until nothing is left.
        while True:
            try:
                start = self._start
                action = ready.rule.action(start)
                if start is None or isinstance(action, Done):
                    break
                if not isinstance(action, Glimpse | Write):
                    async for event in self._limit(action):
                        yield event
                    continue
                ready.recorder.begin()
                async for event in self._write(*await self._decide(start, action)):
                    yield event
            except TimeoutError:
                # Only the deadline raises these; a model that is too slow fails in other words.
                closes = ready.chain.can_close and not ready.rule.budgets.over(ready.recorder.spent)
                action = CloseThinking("deadline") if closes else Stop("deadline")
                async for event in self._limit(action):
                    yield event
            except ModelError as error:
                for event in self._fall_back(error):
                    yield event
                for stream in ready.streams.values():
                    await stream.cancel()
            except ConfigError as error:
                self._keep_text(error)
                raise
        for event in ready.reply.end():
            yield event
        for stream in ready.streams.values():
            await stream.aclose()
        yield Finished(ready.recorder.result())

    @property
    def _start(self) -> StepStart | None:
        """What is known of the next step, and what the call has taken so far."""
        start = self.ready.chain.next_step
        return None if start is None else replace(start, spent=self.ready.recorder.spent)

    @property
    def _next_action(self) -> Action:
        """What comes after the running step, as far as it is known by now."""
        try:
            return self.ready.rule.action(self._start)
        except ConfigError:
            # The policy fails. It will be asked again when that step's turn has come, and what was
            # written until then is kept.
            return Done()

    async def _decide(
        self, start: StepStart, action: Glimpse | Write
    ) -> tuple[Write, Glimpsed | None]:
        """Who writes the next step, and what the glimpse showed if one was made."""
        ready = self.ready
        if isinstance(action, Write):
            return action, None
        glimpse = await ready.in_time(
            ready.streams["small"].glimpse(
                ready.chain.context, ready.chain.room, ready.recorder.estimator, action
            )
        )
        decision = ready.rule.action(replace(start, glimpse=glimpse))
        assert isinstance(decision, Write), "a policy is asked for one glimpse a step"
        # Whoever does not write stops: the small model's glimpsed stream, or (overlap) the large
        # model's, which was left running in case it would be wanted again.
        await ready.streams["small" if decision.author == "large" else "large"].cancel()
        return decision, glimpse

    async def _write(
        self, decision: Write, glimpse: Glimpsed | None
    ) -> AsyncGenerator[Event, None]:
        """Let the step's author write it."""
        ready, author = self.ready, decision.author
        chain, stream = ready.chain, ready.streams[author]
        entropy = None if glimpse is None else glimpse.entropy
        cap = ready.rule.budgets.room(
            author, ready.recorder.spent, is_answer=chain.phase == "answer"
        )
        step = chain.begin(author, entropy, cap)
        ready.recorder.decided(decision)
        part = chain.parts
        yield StepStarted(
            step.index,
            author,
            entropy,
            step.is_answer,
            chain.decides_call(step.index),
            ready.recorder.threshold(decision, step),
            decision.reason,
        )
        # What follows is the same for all tokens of a step. A stream that may run on past it asks
        # for the whole phase at once. Another asks for the step, and a few tokens more: a cap must
        # not fall inside a character, and the chain cuts after it.
        runs_on, undecided = self._runs_on(author), Reply(chain).undecided
        stop, schema = () if runs_on else chain.stop, chain.schema

        def room() -> int:
            within_phase = chain.room
            return (
                within_phase if runs_on else min(within_phase, chain.step_room + _CHARACTER_TOKENS)
            )

        taker = self._taker(step, undecided=undecided)
        take = None if taker is None else taker.take
        while True:
            try:
                token = await ready.in_time(stream.read(chain.context, room, schema, stop, take))
            except (TimeoutError, GlimpError):
                shown = taker.shown() if taker is not None else ""
                for event in ready.reply.show(shown, step, undecided=undecided):
                    yield event
                raise
            ready.recorder.first_token()
            update = None if taker is None else taker.update()
            if update is None:
                update = chain.take(token) if token is not None else chain.ended(*stream.take_end())
            shown = update.shown if taker is None else taker.shown() + update.shown
            for event in ready.reply.show(shown, step, undecided=undecided):
                yield event
            if update.step_over:
                break
        if chain.phase == "answer" and not step.is_answer:
            # An answer begins: what came before it is reasoning, and that is reported first.
            for event in ready.reply.resolve_kinds():
                yield event
        if self._must_stop(author, update, part):
            await stream.cancel(discarded=update.discarded)
        if self._warms_prefix_cache(author):
            ready.streams["large"].prefill(chain.context)
        yield StepDone(ready.recorder.record(step))

    def _taker(self, step: Step, *, undecided: bool) -> Taker | None:
        """Takes the step's tokens where they are read; ``None``: each of them is yielded."""
        chain, recorder, deliver = self.ready.chain, self.ready.recorder, self.call.deliver
        if deliver is None:
            return None if self.call.streamed else Taker(chain, recorder)

        def show(text: str) -> None:
            for event in self.ready.reply.show(text, step, undecided=undecided):
                deliver(event)

        return Taker(chain, recorder, show)

    async def _limit(self, action: Action) -> AsyncGenerator[Event, None]:
        """A budget is spent: close the thinking, let one model write alone, or end the reply."""
        ready = self.ready
        chain, before = ready.chain, ready.chain.phase
        last = chain.steps[-1] if chain.steps else None
        running = last if last is not None and last.end is None else None
        undecided = Reply(chain).undecided
        budgets, shown = ready.rule.budgets, ""
        if isinstance(action, Stop):
            ready.recorder.note_limit(f"{budgets.named(action.reason)}: the reply ended here")
            shown = chain.stop_here(action.reason).shown
        elif isinstance(action, CloseThinking):
            ready.recorder.note_limit(f"{budgets.named(action.reason)}: the thinking was closed")
            shown = chain.close_thinking(action.reason)
        elif isinstance(action, WriteAlone):
            ready.recorder.note_limit(action.reason)
            plan = ready.plan_for(action.author)
            shown = chain.fall_back(action.author, plan, action.reason).shown
        for stream in ready.streams.values():
            await stream.cancel()
        if last is not None:
            for event in ready.reply.show(shown, last, undecided=undecided):
                yield event
        if running is not None:
            yield StepDone(ready.recorder.record(running))
        if chain.phase == "answer" != before:
            for event in ready.reply.resolve_kinds():
                yield event

    def _must_stop(self, author: Author, update: StepUpdate, part: int) -> bool:
        """Whether the author's stream has to be closed at the end of a step.

        It may run on only if the next step continues exactly the text it has written, and may be
        its own.
        """
        dropped = update.truncated or update.discarded > 0
        return dropped or self.ready.chain.parts != part or not self._runs_on(author)

    def _runs_on(self, author: Author) -> bool:
        """Whether this author's stream is, or may be, still wanted after the step's end."""
        action = self._next_action
        if isinstance(action, Glimpse):
            if author == "small":
                return self.ready.strategy != "two_request"
            return self.ready.strategy == "overlap"
        return isinstance(action, Write) and action.author == author

    def _warms_prefix_cache(self, author: Author) -> bool:
        return (
            self.call.settings.warm_prefix_cache
            and author == "small"
            and isinstance(self._next_action, Glimpse)
        )

    def _fall_back(self, error: ModelError) -> list[Event]:
        """Go on with the other model if the caller wants that, else raise with the text so far."""
        chain = self.ready.chain
        if isinstance(error, BackendError) and error.context_full:
            too_long = ConfigError(str(error))
            self._keep_text(too_long)
            raise too_long from error
        deputy = stand_in(self.call.settings, error.role)
        last = chain.steps[-1] if chain.steps else None
        running: Step | None = last if last is not None and last.end is None else None
        # A failed glimpse belongs to the step it was made for.
        error.step = len(chain.steps) + (running is None)
        if deputy is None or chain.forced is not None or not chain.can_change_hands:
            error.partial = self.ready.recorder.result()
            raise error
        try:
            plan = self.ready.plan_for(deputy)
        except ConfigError as impossible:
            self._keep_text(impossible)
            raise impossible from error
        self.ready.recorder.errors.append(str(error))
        undecided = Reply(chain).undecided
        update = chain.fall_back(deputy, plan)
        if running is None:
            return []
        return [
            *self.ready.reply.show(update.shown, running, undecided=undecided),
            StepDone(self.ready.recorder.record(running)),
        ]

    def _keep_text(self, error: GlimpError) -> None:
        """Let an error carry what was written, if there is something."""
        if self.ready.chain.steps:
            error.partial = self.ready.recorder.result()
