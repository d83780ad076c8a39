"""Makes the trace of a call: what every step cost, and the result as it stands at any moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from glimp_integrations.method.chain import Chain
from glimp_integrations.method.entropy import Estimator
from glimp_integrations.method.policy import Author, Spent, Write
from glimp_integrations.method.reply import Reply
from glimp_integrations.method.steps import Step
from glimp_integrations.method.tokens import count_of
from glimp_integrations.output.constraints import Plan
from glimp_integrations.output.tool_call_ids import new_ids
from glimp_integrations.runtime.counters import Counters
from glimp_integrations.runtime.model_stream import ModelStream
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.records import CallProposal, ModelUsage, StepRecord, Usage
from glimp_integrations.trace.trace import RoutedAnswer, Trace

__all__ = ["Recorder"]


@dataclass(slots=True)
class Recorder:
    """Records of one call.

    Args:
        settings: The routing settings.
        chain: What is written.
        plan: The shape of the answer.
        streams: The models that write it; their counters are read here.
        strategy: Chosen strategy and the reason for it.
        estimator: How H is computed in this call.
        prompt_tokens: Of the large model's prompt, if known.
        started: ``time.perf_counter()`` at the beginning of the call.
        errors: Failures that did not end the call.
        route: ``"routed"`` or ``"large_alone"``, and why.
        new_id: From a tool call's number to its id.
    """

    settings: RoutingSettings
    chain: Chain
    plan: Plan
    streams: Mapping[Author, ModelStream]
    strategy: tuple[str, str]
    estimator: Estimator
    prompt_tokens: int | None
    started: float
    errors: list[str] = field(default_factory=list)
    route: tuple[str, str] = ("routed", "")
    new_id: Callable[[int], str] = field(default_factory=new_ids)
    _records: list[StepRecord] = field(default_factory=list)
    _begun: float = 0.0
    _first: float | None = None
    _before: dict[str, int] = field(default_factory=dict)
    _decision: Write | None = None
    _limits: list[str] = field(default_factory=list)
    _writing: dict[Author, tuple[float, int]] = field(default_factory=dict)  # after first tokens

    @property
    def spent(self) -> Spent:
        """What the call has taken so far, open requests included."""
        # Asked several times a step: records are made only where prices need them.
        large, prices = self.streams["large"], self.settings.known_prices
        running = large.request.arrivals.tokens if large.request.is_open else 0
        return Spent(
            large_tokens=large.counters.usage.output_tokens + running,
            cost=None if prices is None else prices.of(self._usage_so_far),
            seconds=time.perf_counter() - self.started,
            token_seconds={
                author: seconds / tokens for author, (seconds, tokens) in self._writing.items()
            },
        )

    def note_limit(self, reason: str) -> None:
        """A budget changed what was written."""
        self._limits.append(reason)

    def decided(self, decision: Write) -> None:
        """The running step has its author."""
        self._decision = decision

    def begin(self) -> None:
        """A step begins, with its glimpse."""
        self._begun = time.perf_counter()
        self._first = None
        self._before = self._counts()

    def first_token(self) -> None:
        """A token of the step is there."""
        if self._first is None:
            self._first = time.perf_counter() - self._begun

    def record(self, step: Step) -> StepRecord:
        """The record of a step; kept once."""
        decision = self._decision or Write(step.author)
        now = self._counts()
        spent = {name: now[name] - self._before.get(name, 0) for name in now}
        counted = any(c.prefilled is not None for c in self._counters)
        record = StepRecord(
            index=step.index,
            kind=Reply(self.chain).kind_of(step),
            text=step.text,
            author=step.author,
            place=step.place,
            entropy=step.entropy,
            estimator=self._tag,
            policy=decision.policy,
            signal=_finite(decision.signal),
            bound=_finite(decision.bound),
            reason=decision.reason,
            threshold=_finite(self.threshold(decision, step)),
            tokens=step.tokens,
            sure_share=step.sure_share,
            discarded_tokens=spent["discarded"],
            requests=spent["requests"],
            prefilled_tokens=spent["prefilled"] if counted else None,
            cached_tokens=spent["cached"] if counted else None,
            first_token_seconds=self._first,
            seconds=time.perf_counter() - self._begun,
            end=step.end,
        )
        if len(self._records) <= step.index:
            self._records.append(record)
            seconds, tokens = record.writing
            if tokens:
                before = self._writing.get(step.author, (0.0, 0))
                self._writing[step.author] = (before[0] + seconds, before[1] + tokens)
        return record

    @property
    def running(self) -> list[Author]:
        """The models that have an open request."""
        return [author for author, stream in self.streams.items() if stream.request.is_open]

    def left(self, running: Collection[Author]) -> RoutedAnswer:
        """The answer as it stands, of a call that ends before its end.

        Args:
            running: The models whose requests were open then. Those are closed by now, and where a
                server had not told the length of a prompt, it is as long as the text before it.
        """
        for author in running:
            request, counters = self.streams[author].request, self.streams[author].counters
            if count_of(request.report.prompt_tokens) is None:
                written = max(0, self.chain.tokens - request.arrivals.tokens)
                prompt = (self.prompt_tokens or 0) + written
                read = counters.usage.input_tokens + prompt
                counters.usage = counters.usage.model_copy(update={"input_tokens": read})
        return self.result()

    def result(self) -> RoutedAnswer:
        """The answer as it stands."""
        chain = self.chain
        if len(self._records) < len(chain.steps):
            self.record(chain.steps[-1])
        own = Reply(chain)
        # Kinds are known at the end only, and a stop string may have shortened an earlier step.
        records = [
            record.model_copy(update={"kind": own.kind_of(step), "text": step.text})
            for record, step in zip(self._records, chain.steps, strict=True)
        ]
        usage = Usage(
            small=self.streams["small"].counters.usage,
            large=self.streams["large"].counters.usage,
            reasoning_tokens=sum(r.tokens for r in records if r.kind == "reasoning"),
        )
        cost, alone = self._costs(usage, sum(r.tokens for r in records))
        trace = Trace(
            small_model=self.streams["small"].request.backend.name,
            large_model=self.streams["large"].request.backend.name,
            strategy=self.strategy[0],
            strategy_reason=self.strategy[1],
            glimpse=self.settings.glimpse,
            random_share=self.settings.random_share,
            steps=records,
            call_proposals=self._proposals(),
            stop_reason=chain.stop_reason,
            answer_stop=chain.answer_stop,
            requests=sum(counters.requests for counters in self._counters),
            seconds=time.perf_counter() - self.started,
            prompt_tokens=self.prompt_tokens,
            errors=self.errors,
            route=self.route[0],
            route_reason=self.route[1],
            limits=self._limits,
            cost=cost,
            large_alone_cost=alone,
        )
        reply = self.plan.parser(self.new_id).read(own.answer)
        return RoutedAnswer(
            reasoning=own.reasoning,
            answer=reply.content,
            trace=trace,
            usage=usage,
            tool_calls=reply.calls,
            invalid_tool_calls=reply.invalid,
        )

    def _proposals(self) -> list[CallProposal]:
        steps = self.chain.steps
        return [
            CallProposal(
                step=proposal.step,
                proposed_by=steps[proposal.step].author,
                decided_in=decider.index,
                decided_by=decider.author,
                called=decider.end == "tool_call",
                trigger=proposal.trigger,
            )
            for proposal in self.chain.proposals
            # The call may have ended before anybody decided.
            for decider in steps[proposal.decided_in : proposal.decided_in + 1]
        ]

    def _costs(self, usage: Usage, written: int) -> tuple[float | None, float | None]:
        prices = self.settings.known_prices
        if prices is None:
            return None, None
        alone = ModelUsage(input_tokens=self.prompt_tokens or 0, output_tokens=written)
        return prices.of(usage), prices.large.of(alone)

    def threshold(self, decision: Write, step: Step) -> float | None:
        """The bound on H that was in force, in nats, if there was one."""
        settings = self.settings
        if settings.large_share is None and settings.policy is None:
            return settings.threshold
        by_entropy = decision.signal is not None and decision.signal == step.entropy
        return decision.bound if by_entropy else None

    @property
    def _usage_so_far(self) -> Usage:
        """The usage of both models, with what open requests have taken so far."""
        small, large = (self._taken(author) for author in ("small", "large"))
        return Usage(small=small, large=large)

    def _taken(self, author: Author) -> ModelUsage:
        """A model's usage, with what its open request has taken so far."""
        stream = self.streams[author]
        usage, request = stream.counters.usage, stream.request
        if not request.is_open:
            return usage
        # Servers count at the end of a request: until then its prompt is as long as the text.
        written = self.chain.tokens
        return usage.model_copy(
            update={
                "input_tokens": usage.input_tokens
                + (request.report.prompt_tokens or (self.prompt_tokens or 0) + written),
                "output_tokens": usage.output_tokens + request.arrivals.tokens,
            }
        )

    @property
    def _tag(self) -> str:
        k = self.streams["small"].request.top_logprobs
        return self.estimator if self.estimator == "full" else f"{self.estimator}@{k}"

    def _counts(self) -> dict[str, int]:
        both = self._counters
        return {
            "requests": sum(counters.requests for counters in both),
            "discarded": sum(counters.discarded for counters in both),
            "prefilled": sum(counters.prefilled or 0 for counters in both),
            "cached": sum(counters.cached or 0 for counters in both),
        }

    @property
    def _counters(self) -> list[Counters]:
        return [stream.counters for stream in self.streams.values()]


def _finite(number: float | None) -> float | str | None:
    """As JSON has it."""
    return number if number is None or math.isfinite(number) else str(number)
