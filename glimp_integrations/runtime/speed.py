"""What a pair's tokens and requests take: measured, to choose a strategy and to judge a trace.

The cost model is that of the method's analysis: an answer takes at least the tokens each model
writes and the text each has to read (the *ideal*), and on top what requests, streamed
log-probabilities and cancelled streams add, which is what strategies differ in.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

from glimp_integrations.backends.base import CALL_LIMITS, Backend, Report, Request
from glimp_integrations.errors import BackendError
from glimp_integrations.method.policy import Author
from glimp_integrations.runtime.failures import asked
from glimp_integrations.trace.trace import Trace

__all__ = ["ModelSpeed", "PairSpeed", "measure", "median"]

_TOKENS = 24
_COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
# Words of two to four tokens: as much as a model usually has to read of the other's text, since
# short texts cost more a token than long ones; and a text long enough to slow its continuation.
_READ, _LONG = 36, 160
_PAIRS = 5
_TURNS = 3
_NOTICED = 1.03  # less is beyond so short a measurement
_SLOWER = 1.2  # on separate devices models do not disturb each other; on one, by far more
# A typical chain: the paper's share of large steps, and the tokens of a step.
_SHARE, _STEP = 0.25, 40


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """One model's times, undisturbed; seconds.

    Attributes:
        request: What a request takes besides its tokens: the way there and back, scheduling.
        token: A generated token at the beginning of a text.
        prefill: A token of the prompt that is in no cache, of some hundred of them.
        release: From closing a stream until the next request is served, more than usual.
        growth: How much longer a generated token takes for every token before it.
        client: Processor time that this process takes to read a streamed token. A model that
            computes on all cores of this machine waits for it; for any other it is next to
            nothing.
    """

    request: float
    token: float
    prefill: float
    release: float
    growth: float = 0.0
    client: float = 0.0

    def written(self, tokens: int, preceding: int) -> float:
        """Seconds that ``tokens`` take after a text of ``preceding`` tokens."""
        return tokens * (self.token + self.growth * (preceding + tokens / 2))


@dataclass(frozen=True, slots=True)
class PairSpeed:
    """Both models' times; seconds.

    Attributes:
        small: The small model.
        large: The large model.
        logprobs: What the log-probabilities add to a streamed token of the small model.
        slowdown: How many times slower a token is while the other model computes; the worse of
            the two. 1 on separate devices.
        stops: Whether the small and the large model's server ends a stream by itself after a
            step; others are stopped by closing it.
    """

    small: ModelSpeed
    large: ModelSpeed
    logprobs: float
    slowdown: float
    stops: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> PairSpeed:
        """From ``dataclasses.asdict()`` of one."""
        models = {role: ModelSpeed(**stored[role]) for role in ("small", "large")}
        return cls(**{**stored, **models, "stops": tuple(stored.get("stops", (False, False)))})

    @property
    def apart(self) -> bool:
        """Whether the models compute on separate devices."""
        return self.slowdown < _SLOWER

    def overhead(self, strategy: str) -> float:
        """Seconds a step takes beyond its tokens, for a quarter of large steps of 40 tokens."""
        small, large, p = self.small, self.large, _SHARE
        # A closed stream delays the other model only where both wait for one device.
        small_closed, large_closed = (0.0 if self.apart else m.release for m in (small, large))
        small_ended, large_ended = (
            0.0 if stops else closed
            for stops, closed in zip(self.stops, (small_closed, large_closed), strict=True)
        )
        glimpse = small.request + small.token  # in vain, where the large model writes
        if strategy == "two_request":
            written = (1 - p) * (2 * small.request + small_ended)
            return written + p * (glimpse + large.request + large_ended)
        logprobs = self.logprobs * _STEP * (1 - p)
        to_large = large.request + small_closed
        if strategy == "overlap":
            # A large step after a large one costs nothing: it is being written meanwhile.
            return logprobs + p * (1 - p) * (to_large + glimpse)
        return logprobs + p * (to_large + glimpse + large_ended)

    def ideal(self, trace: Trace) -> float:
        """Seconds the decisions of a trace take at least: tokens written and read, at their price.

        What each model has not read of the prompt and of the other's text is read when it is
        asked next, the small one for every glimpse. What a server had in its cache when the
        question came need not be read, where it says so.
        """
        models: dict[Author, ModelSpeed] = {"small": self.small, "large": self.large}
        length = trace.prompt_tokens or 0
        unread: dict[Author, float] = dict.fromkeys(models, length - _cached_before(trace))
        seconds = 0.0
        for step in trace.steps:
            readers: list[Author] = [step.author]
            if step.entropy is not None and step.author == "large":
                readers.insert(0, "small")
            for author in readers:
                seconds += models[author].prefill * unread[author]
                unread[author] = 0
            seconds += models[step.author].written(step.tokens, length)
            length += step.tokens
            unread["large" if step.author == "small" else "small"] += step.tokens
        return seconds


def _cached_before(trace: Trace) -> float:
    """Tokens of the prompt that were in a cache when the question came, as the first step tells."""
    first = trace.steps[0] if trace.steps else None
    if first is None or first.prefilled_tokens is None or not trace.prompt_tokens:
        return 0.0
    models = 2 if first.entropy is not None and first.author == "large" else 1
    # A model's second request of a step reads one token again.
    read = (first.prefilled_tokens - (first.requests - models)) / models
    return min(max(trace.prompt_tokens - read, 0.0), float(trace.prompt_tokens))


def median(measurements: Sequence[PairSpeed]) -> PairSpeed:
    """The median of each figure of measurements of one pair."""

    def of(role: str) -> ModelSpeed:
        models = [getattr(speed, role) for speed in measurements]
        names = [field.name for field in fields(ModelSpeed)]
        return ModelSpeed(**{n: statistics.median(getattr(m, n) for m in models) for n in names})

    return replace(
        measurements[0],
        small=of("small"),
        large=of("large"),
        logprobs=statistics.median(speed.logprobs for speed in measurements),
        slowdown=statistics.median(speed.slowdown for speed in measurements),
    )


async def measure(small: Backend, large: Backend) -> PairSpeed:
    """Measure a pair: some 400 tokens of each model, nothing else running.

    Raises:
        BackendError: A model failed, or ended its text at once.
        UnsuitableEndpointError: A model cannot be used.
    """
    models: dict[Author, Backend] = {"small": small, "large": large}
    capabilities, alone = [], {}
    for author, backend in models.items():
        with asked(author, backend):
            capabilities.append(await backend.capabilities())
    for author, backend in models.items():
        with asked(author, backend):
            alone[backend] = await _measure_one(backend)

    async def beside_the_other(author: Author) -> _Timing:
        with asked(author, models[author]):
            return await _stream(models[author], _COUNTING)

    together = await asyncio.gather(*map(beside_the_other, models))
    k = capabilities[0].top_logprobs
    with asked("small", small):
        logprobs = max(0.0, await _price_of_logprobs(small, k)) if k else 0.0
    return PairSpeed(
        alone[small],
        alone[large],
        logprobs=logprobs,
        slowdown=max(
            timing.token / alone[backend].token
            for timing, backend in zip(together, (small, large), strict=True)
        ),
        stops=(capabilities[0].supports_stop, capabilities[1].supports_stop),
    )


async def _price_of_logprobs(backend: Backend, k: int) -> float:
    """Seconds a token, with and without in turn: a drifting machine would drown a difference."""
    differences = []
    for _ in range(_PAIRS):
        plain = (await _stream(backend, _COUNTING)).token
        differences.append((await _stream(backend, _COUNTING, k)).token - plain)
    return statistics.median(differences)


@dataclass(frozen=True, slots=True)
class _Timing:
    token: float
    preceding: int | None  # tokens of the prompt, and half of those written
    client: float = 0.0


async def _measure_one(backend: Backend) -> ModelSpeed:
    await _stream(backend, _COUNTING)  # everything is loaded, connected and cached now
    single = min([await _single(backend, _COUNTING) for _ in range(3)])
    prefill = statistics.median([await _prefill(backend, single) for _ in range(_TURNS)])
    long = _fresh_prompt(_LONG)
    # In turn, as the machine may drift meanwhile. Medians: what disturbs it now and then is in the
    # answers' times too.
    near, far = zip(
        *[[await _stream(backend, text) for text in (_COUNTING, long)] for _ in range(_TURNS)],
        strict=True,
    )
    token, growth = _line(near, far)
    return ModelSpeed(
        request=max(0.0, single - statistics.median(timing.token for timing in near)),
        token=token,
        prefill=prefill,
        release=min([await _release(backend, single) for _ in range(2)]),
        growth=growth,
        client=statistics.median(timing.client for timing in near),
    )


def _line(near: Sequence[_Timing], far: Sequence[_Timing]) -> tuple[float, float]:
    """What a token takes after no text, and more for every token before it."""
    (short, preceding), (long, further) = (
        (statistics.median(timing.token for timing in timings), timings[0].preceding)
        for timings in (near, far)
    )
    if preceding is None or further is None or further <= preceding or long < short * _NOTICED:
        return short, 0.0
    growth = (long - short) / (further - preceding)
    first = short - growth * preceding
    # A token that takes no time is no finding: what grew was the load of the machine.
    return (first, growth) if first > 0 else (short, 0.0)


async def _stream(backend: Backend, prompt: str, logprobs: int = 0, stop: int = 0) -> _Timing:
    """Time of a stream's tokens; ``stop``: closed after so many pieces."""
    seconds, retries = CALL_LIMITS.get()
    request = Request(prompt, _TOKENS, logprobs=logprobs, timeout=seconds, max_retries=retries)
    report = Report()
    arrivals = []
    async with aclosing(backend.generate(request, report)) as tokens:  # type: ignore[type-var]
        async for token in tokens:
            # This loop's thread reads the stream. Models of this process have threads of their own.
            arrivals.append((time.perf_counter(), token.count, time.thread_time()))
            if len(arrivals) in (stop, _TOKENS):  # not every server heeds max_tokens
                break
    if len(arrivals) < 2:
        raise BackendError(
            f"{backend.label} ended {prompt[:20]!r}... after {len(arrivals)} pieces of text, so "
            "its speed cannot be measured",
            model=backend.name,
        )
    written = max(1, sum(count for _, count, _ in arrivals[1:]))
    read = report.prompt_tokens
    (began, _, spent_before), (ended, _, spent) = arrivals[0], arrivals[-1]
    return _Timing(
        (ended - began) / written,
        None if read is None else read + written // 2,
        (spent - spent_before) / written,
    )


async def _single(backend: Backend, prompt: str, report: Report | None = None) -> float:
    seconds, retries = CALL_LIMITS.get()
    request = Request(prompt, 1, timeout=seconds, max_retries=retries)
    started = time.perf_counter()
    async with aclosing(backend.generate(request, report or Report())) as tokens:  # type: ignore[type-var]
        pieces = 0
        async for token in tokens:
            pieces += bool(token.text)
            if pieces > 1:  # not every server heeds max_tokens
                break
    return time.perf_counter() - started


_fresh = itertools.count(time.time_ns() % 1_000_000)


def _fresh_prompt(words: int) -> str:
    """A prompt that no cache knows."""
    start = next(_fresh)
    return f"{start}: " + " ".join(f"word{(start + i) % 997}" for i in range(words))


async def _prefill(backend: Backend, single: float) -> float:
    """Seconds a token of a prompt that no cache knows."""
    report = Report()
    took = await _single(backend, _fresh_prompt(_READ), report)
    read = (report.prompt_tokens or 2 * _READ) - (report.cached_tokens or 0)
    return max(0.0, took - single) / max(1, read)


async def _release(backend: Backend, single: float) -> float:
    await _stream(backend, _COUNTING, stop=4)
    started = time.perf_counter()
    await backend.wait_idle()
    await _single(backend, _COUNTING)
    return max(0.0, time.perf_counter() - started - single)
