"""What one model's requests of a call came to: tokens, requests, prompt tokens from the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from glimp_integrations.backends.base import Report
from glimp_integrations.method.tokens import count_of
from glimp_integrations.trace.records import ModelUsage

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Sums over the requests of one model in one call.

    Attributes:
        usage: What a provider bills.
        requests: Requests that were sent.
        discarded: Generated tokens that were thrown away.
        prefilled: Prompt tokens that were computed; ``None``: no request reported them.
        cached: Prompt tokens that were taken from the cache; ``None``: likewise.
    """

    usage: ModelUsage = field(default_factory=ModelUsage)
    requests: int = 0
    discarded: int = 0
    prefilled: int | None = None
    cached: int | None = None

    def add(self, report: Report, received: int) -> None:
        """Add a request that is over.

        Args:
            report: What the backend reported of it. A cancelled request often reports nothing;
                numbers that cannot be numbers of tokens count as not reported.
            received: Tokens that arrived; they count where the report has fewer.
        """
        old = self.usage
        prompt, cached = count_of(report.prompt_tokens), count_of(report.cached_tokens)
        completion = count_of(report.completion_tokens)
        if cached is not None and prompt is not None:
            cached = min(cached, prompt)
        self.usage = ModelUsage(
            requests=old.requests + 1,
            input_tokens=old.input_tokens + (prompt or 0),
            cached_tokens=old.cached_tokens + (cached or 0),
            output_tokens=old.output_tokens + max(completion or 0, received),
            estimated=old.estimated or completion is None or prompt is None,
        )
        if prompt is not None and cached is not None:
            self.cached = (self.cached or 0) + cached
            self.prefilled = (self.prefilled or 0) + prompt - cached
