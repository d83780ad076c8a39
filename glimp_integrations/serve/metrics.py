"""What is counted: for Prometheus since the start, for the start page in the last hour."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from glimp_integrations.serve.limits import Places
from glimp_integrations.trace.records import ModelUsage, TraceData, Usage

__all__ = ["LastHour", "Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SHARES = tuple(n / 10 for n in range(11))


class Metrics:
    """The metrics of one server.

    Args:
        places: Whose running and waiting conversations are shown.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, places: Places) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "glimp_requests", "Requests for a reply, by HTTP status.", ["status"], registry=own
        )
        self._errors = Counter(
            "glimp_errors", "Refused and failed requests, by code.", ["code"], registry=own
        )
        self._tokens = Counter(
            "glimp_tokens",
            "Tokens of all requests to the models: input (cached ones too), cached, output.",
            ["model", "kind"],
            registry=own,
        )
        self._kept = Counter(
            "glimp_kept_tokens", "Tokens of the replies, by author.", ["author"], registry=own
        )
        self._share = Histogram(
            "glimp_large_share",
            "Share of a reply's tokens that the large model wrote.",
            buckets=_SHARES,
            registry=own,
        )
        self._cost = Counter(
            "glimp_cost", "Cost in the currency of the prices, if there are any.", registry=own
        )
        self._first = Histogram(
            "glimp_first_token_seconds",
            "Seconds from the beginning of a conversation, without waiting, to its first token.",
            buckets=_SECONDS,
            registry=own,
        )
        self._per_token = Histogram(
            "glimp_token_seconds",
            "Seconds per kept token after the first, one value a reply.",
            buckets=_TOKEN_SECONDS,
            registry=own,
        )
        self._queue = Histogram(
            "glimp_queue_seconds", "Seconds in the queue.", buckets=_SECONDS, registry=own
        )
        running = Gauge("glimp_running", "Conversations that run.", registry=own)
        running.set_function(lambda: places.running)
        waiting = Gauge("glimp_waiting", "Conversations that wait.", registry=own)
        waiting.set_function(lambda: places.waiting)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def request(self, status: int, code: str | None) -> None:
        """A request is over.

        Args:
            status: HTTP status that it was answered with.
            code: Code of its error, also of one in the middle of a stream; ``None``: it succeeded.
        """
        self._requests.labels(str(status)).inc()
        if code is not None:
            self._errors.labels(code).inc()

    def waited(self, seconds: float) -> None:
        """A conversation got its place after so many seconds."""
        self._queue.observe(seconds)

    def reply(self, trace: TraceData, usage: Usage, *, complete: bool) -> None:
        """A conversation is over, failed, or was left.

        Args:
            trace: Who wrote what.
            usage: Tokens of all requests.
            complete: Whether the reply came to its end.
        """
        models: dict[str, ModelUsage] = {"small": usage.small, "large": usage.large}
        for model, tokens in models.items():
            for kind in ("input", "cached", "output"):
                self._tokens.labels(model, kind).inc(getattr(tokens, f"{kind}_tokens"))
        self._kept.labels("small").inc(trace.tokens("small"))
        self._kept.labels("large").inc(trace.tokens("large"))
        if trace.cost is not None:
            self._cost.inc(trace.cost)
        if not complete or not trace.steps:
            return
        self._share.observe(trace.large_share)
        first = trace.steps[0].first_token_seconds
        kept = sum(step.tokens for step in trace.steps)
        if first is not None:
            self._first.observe(first)
            if kept > 1:
                self._per_token.observe(max(0.0, trace.seconds - first) / (kept - 1))


@dataclass(slots=True)
class _Minute:
    number: int
    replies: int = 0
    failed: int = 0
    small: int = 0
    large: int = 0
    cost: float = 0.0


class LastHour:
    """Sums over the last 60 minutes, minute by minute.

    Args:
        clock: Seconds, from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: deque[_Minute] = deque()
        self._priced = False

    def reply(self, trace: TraceData) -> None:
        """A conversation came to its end."""
        minute = self._now()
        minute.replies += 1
        minute.small += trace.tokens("small")
        minute.large += trace.tokens("large")
        if trace.cost is not None:
            self._priced = True
            minute.cost += trace.cost

    def failed(self) -> None:
        """A request was refused or failed."""
        self._now().failed += 1

    def data(self) -> dict[str, Any]:
        """The sums, as JSON data; without prices there is no cost."""
        self._now()
        small, large = (sum(getattr(m, name) for m in self._minutes) for name in ("small", "large"))
        return {
            "replies": sum(m.replies for m in self._minutes),
            "failed": sum(m.failed for m in self._minutes),
            "small_tokens": small,
            "large_tokens": large,
            "large_share": large / (small + large) if small + large else None,
            "cost": sum(m.cost for m in self._minutes) if self._priced else None,
        }

    def _now(self) -> _Minute:
        number = int(self._clock() // 60)
        while self._minutes and self._minutes[0].number <= number - 60:
            self._minutes.popleft()
        if not self._minutes or self._minutes[-1].number != number:
            self._minutes.append(_Minute(number))
        return self._minutes[-1]
