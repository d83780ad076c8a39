"""The routing loop, written once: decisions in, requests out, events to the caller."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from glimp_integrations import prompt
from glimp_integrations.backends.base import PATIENCE, Backend, Capabilities, Message
from glimp_integrations.decisions import Author, Chain, Done, Glimpse, Kept, Step, Write
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.events import Event, Finished, StepDone, StepStarted
from glimp_integrations.pens import Pen, Sampling, label
from glimp_integrations.settings import Price, RoutingSettings
from glimp_integrations.settle import Settler
from glimp_integrations.strategy import choose
from glimp_integrations.trace import ModelUsage, RoutedAnswer, StepRecord, Trace, Usage

__all__ = ["route"]

_CHARACTER_TOKENS = 4  # no UTF-8 character has more
TOP_LOGPROBS = 20  # the reference code's k and the cap of most servers


async def route(
    settings: RoutingSettings, small: Backend, large: Backend, messages: Sequence[Message]
) -> AsyncGenerator[Event, None]:
    """Answer a conversation; yields events, :class:`Finished` last.

    Args:
        settings: The routing settings.
        small: The small model.
        large: The large model.
        messages: The conversation, checked by :func:`prompt.check_messages`.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``partial`` holds what was written.
    """
    call = await _prepare(settings, small, large, messages)
    try:
        async for event in call.events():
            yield event
    finally:
        for pen in call.pens.values():
            await pen.lift()


async def _prepare(
    settings: RoutingSettings, small: Backend, large: Backend, messages: Sequence[Message]
) -> _Call:
    started = time.perf_counter()
    PATIENCE.set((settings.timeout, settings.max_retries))
    # One after the other: on one machine, loading and first requests of two models only
    # disturb each other; later calls find everything cached.
    with _blame("small"):
        small_can = await small.capabilities()
        small_prompt = await prompt.build(small, messages)
    with _blame("large"):
        large_can = await large.capabilities()
        large_prompt = await prompt.build(large, messages)
    k = _glimpse_size(settings, small, small_can)
    tags = _tags(settings, {"small": small_prompt, "large": large_prompt})
    strategy, reason = choose(settings.strategy, small_can, large_can)
    seeds = itertools.count(settings.seed or 0)

    def next_seed() -> int | None:
        return None if settings.seed is None else next(seeds)

    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
    )
    fused = strategy == "fused"
    glimpses = 0 <= settings.threshold < math.inf

    def pen(author: Author, backend: Backend, text: prompt.Prompt) -> Pen:
        return Pen(
            author=author,
            backend=backend,
            prefix=text.prefix(tags[author]),
            closer=(tags[author] or ("", ""))[1],
            sampling=sampling,
            top_logprobs=k,
            glimpse_alone=not fused,
            stream_logprobs=fused and glimpses and author == "small",
            next_seed=next_seed,
        )

    windows = [
        can.context_window - (text.tokens or 0)
        for can, text in ((small_can, small_prompt), (large_can, large_prompt))
        if can.context_window is not None and text.tokens is not None
    ]
    closers = tuple(dict.fromkeys(pair[1] for pair in tags.values() if pair))
    chain = Chain(settings, closers, window=min(windows, default=None))
    return _Call(
        settings=settings,
        chain=chain,
        pens={
            "small": pen("small", small, small_prompt),
            "large": pen("large", large, large_prompt),
        },
        strategy=strategy,
        strategy_reason=reason,
        prompt_tokens=large_prompt.tokens,
        started=started,
    )


@dataclass(slots=True)
class _Call:
    """One question on its way."""

    settings: RoutingSettings
    chain: Chain
    pens: dict[Author, Pen]
    strategy: str
    strategy_reason: str
    prompt_tokens: int | None
    started: float
    records: list[StepRecord] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    settler: Settler = field(init=False)
    meter: _Meter = field(init=False)

    def __post_init__(self) -> None:
        self.settler = Settler(self.chain)
        self.meter = _Meter(self.pens)

    async def events(self) -> AsyncGenerator[Event, None]:
        while True:
            action = self.chain.action
            if isinstance(action, Done):
                break
            self.meter = _Meter(self.pens)
            try:
                author, entropy = await self._decide(action)
                async for event in self._write(author, entropy):
                    yield event
            except (BackendError, UnsuitableEndpointError) as error:
                for event in self._failed(error):
                    yield event
            else:
                continue
            for pen in self.pens.values():
                await pen.lift()
        for event in self.settler.settle():
            yield event
        yield Finished(self.result())

    async def _decide(self, action: Glimpse | Write) -> tuple[Author, float | None]:
        if isinstance(action, Write):
            return action.author, None
        small = self.pens["small"]
        entropy = await small.glimpse(
            self.chain.context, self.chain.room, self.settings.entropy_estimator
        )
        author = self.chain.decide(entropy)
        if author == "large":
            await small.lift()
        return author, entropy

    async def _write(self, author: Author, entropy: float | None) -> AsyncGenerator[Event, None]:
        chain, pen = self.chain, self.pens[author]
        step = chain.begin(author, entropy)
        phase = chain.phase
        yield StepStarted(step.index, author, entropy, step.is_answer)
        while True:
            # Who may run on past this step asks for the whole phase at once.
            # The step's cap must not cut a character: a few tokens more, and the chain cuts.
            room = chain.room
            if not self._runs_on(author):
                room = min(room, chain.step_room + _CHARACTER_TOKENS)
            token = await pen.read(chain.context, room)
            self.meter.first_token()
            undecided = chain.undecided
            kept = chain.take(token) if token is not None else chain.ended(*pen.take_end())
            for event in self._show(kept, step, undecided):
                yield event
            if kept.step_over:
                break
        if kept.leftover or chain.phase != phase or not self._runs_on(author):
            await pen.lift()
        yield StepDone(self._record(step))

    def _runs_on(self, author: Author) -> bool:
        """Whether this author's stream is, or may be, still wanted behind the step's end."""
        action = self.chain.action
        if isinstance(action, Glimpse):
            return author == "small" and self.strategy == "fused"
        return isinstance(action, Write) and action.author == author

    def _show(self, kept: Kept, step: Step, undecided: bool) -> list[Event]:
        return self.settler.show(kept.shown, step, undecided=undecided)

    def _failed(self, error: BackendError | UnsuitableEndpointError) -> list[Event]:
        """Go on with the other model if the caller wants that, else raise with the text so far."""
        if isinstance(error, BackendError) and error.context_full:
            raise ConfigError(str(error)) from error
        role = getattr(error, "role", None) or "small"
        alone = self.settings.on_backend_error
        running = self.chain.steps[-1] if self.chain.steps else None
        if alone == "raise" or alone == role or self.chain.forced is not None:
            error.partial = self.result()
            raise error
        self.errors.append(str(error))
        undecided = self.chain.undecided
        broken = running is not None and running.end is None
        kept = self.chain.fall_back(alone)
        if running is None or not broken:
            return []
        return [*self._show(kept, running, undecided), StepDone(self._record(running))]

    # -- records -----------------------------------------------------------------------------

    def _record(self, step: Step) -> StepRecord:
        threshold = self.settings.threshold
        record = StepRecord(
            index=step.index,
            kind=self.chain.kind_of(step),
            text=step.text,
            author=step.author,
            entropy=step.entropy,
            estimator=f"{self.settings.entropy_estimator}@{self.pens['small'].top_logprobs}",
            threshold=threshold if math.isfinite(threshold) else str(threshold),
            tokens=step.tokens,
            end=step.end,
            **self.meter.read(),
        )
        if len(self.records) <= step.index:
            self.records.append(record)
        return record

    def result(self) -> RoutedAnswer:
        """The answer as it stands."""
        chain = self.chain
        if chain.steps and len(self.records) < len(chain.steps):
            self._record(chain.steps[-1])
        records = [
            record.model_copy(update={"kind": chain.kind_of(step), "text": step.text})
            for record, step in zip(self.records, chain.steps, strict=True)
        ]
        usage = Usage(
            small=self.pens["small"].usage,
            large=self.pens["large"].usage,
            reasoning_tokens=sum(r.tokens for r in records if r.kind == "reasoning"),
        )
        cost, alone = self._costs(usage, sum(r.tokens for r in records))
        trace = Trace(
            small_model=self.pens["small"].backend.name,
            large_model=self.pens["large"].backend.name,
            strategy=self.strategy,
            strategy_reason=self.strategy_reason,
            steps=records,
            stop_reason=chain.stop_reason,
            answer_stop=chain.answer_stop,
            requests=sum(pen.requests for pen in self.pens.values()),
            seconds=time.perf_counter() - self.started,
            prompt_tokens=self.prompt_tokens,
            errors=self.errors,
            cost=cost,
            large_alone_cost=alone,
        )
        return RoutedAnswer(
            reasoning=chain.reasoning, answer=chain.answer, trace=trace, usage=usage
        )

    def _costs(self, usage: Usage, written: int) -> tuple[float | None, float | None]:
        prices = self.settings.prices
        if prices is None:
            return None, None
        cost = _cost(usage.small, prices.small) + _cost(usage.large, prices.large)
        alone = ModelUsage(input_tokens=self.prompt_tokens or 0, output_tokens=written)
        return cost, _cost(alone, prices.large)


class _Meter:
    """Counts what one step costs, from its glimpse to its end."""

    def __init__(self, pens: dict[Author, Pen]) -> None:
        self._pens = pens
        self._started = time.perf_counter()
        self._first: float | None = None
        self._before = self._counts()

    def first_token(self) -> None:
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def read(self) -> dict[str, int | float | None]:
        now = self._counts()
        spent = {name: now[name] - self._before[name] for name in now}
        told = any(pen.prefilled is not None for pen in self._pens.values())
        return {
            "requests": spent["requests"],
            "discarded_tokens": spent["discarded"],
            "prefilled_tokens": spent["prefilled"] if told else None,
            "cached_tokens": spent["cached"] if told else None,
            "first_token_seconds": self._first,
            "seconds": time.perf_counter() - self._started,
        }

    def _counts(self) -> dict[str, int]:
        pens = self._pens.values()
        return {
            "requests": sum(pen.requests for pen in pens),
            "discarded": sum(pen.discarded for pen in pens),
            "prefilled": sum(pen.prefilled or 0 for pen in pens),
            "cached": sum(pen.cached or 0 for pen in pens),
        }


def _tags(
    settings: RoutingSettings, prompts: dict[Author, prompt.Prompt]
) -> dict[Author, tuple[str, str] | None]:
    """Each model's think tags: given, its own, or (if it has none) the other's as plain text."""
    if settings.think_tags is not None:
        return dict.fromkeys(prompts, settings.think_tags or None)
    found = next((prompts[a].tags for a in ("large", "small") if prompts[a].tags), None)
    return {author: text.tags or found for author, text in prompts.items()}


def _glimpse_size(settings: RoutingSettings, small: Backend, can: Capabilities) -> int:
    if not 0 <= settings.threshold < math.inf:
        return 0
    if can.top_logprobs <= 0:
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=f"small model {label(small)}",
            detail="returns no top-k log-probabilities, so there is no entropy to route by"
            + (f" ({can.logprobs_refusal})" if can.logprobs_refusal else ""),
            remedy="Use it as the large model only, or serve it with logprobs enabled",
        )
    if can.wanted_logprobs is None:
        return min(TOP_LOGPROBS, can.top_logprobs)
    if can.top_logprobs < can.wanted_logprobs:
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=f"small model {label(small)}",
            detail=f"returns {can.top_logprobs} of {can.wanted_logprobs} requested "
            "log-probabilities",
            remedy=f"Set top_logprobs={can.top_logprobs} on the backend and calibrate the "
            "threshold for it: entropies of different k are not comparable",
        )
    return can.wanted_logprobs


def _cost(usage: ModelUsage, price: Price) -> float:
    cached = price.input if price.cached is None else price.cached
    computed = usage.input_tokens - usage.cached_tokens
    return (
        computed * price.input + usage.cached_tokens * cached + usage.output_tokens * price.output
    ) / 1e6


@contextmanager
def _blame(role: Author) -> Iterator[None]:
    """Name the model's role in errors that do not know it."""
    try:
        yield
    except BackendError as error:
        error.role = role
        raise
