"""Results as they stand in a file, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelTotals", "Result", "Totals"]

Count = Annotated[int, Field(ge=0, le=10**15)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _ModelTokens(_Part):
    kept: Count = 0
    input: Count = 0
    cached: Count = 0
    output: Count = 0


class _Tokens(_Part):
    small: _ModelTokens
    large: _ModelTokens


class _Taken(_Part):
    tokens: _Tokens | None = None
    cost: Cost | None = None


class _Error(_Part):
    partial: _Taken | None = None


class _Body(_Part):
    glimp: _Taken | None = None
    error: _Error | None = None


class _Response(_Part):
    status_code: int
    body: _Body


class Result(_Part):
    """What has to be known of a line of the results."""

    id: str
    custom_id: str
    response: _Response | None = None
    error: dict[str, object] | None = None

    @property
    def failed(self) -> bool:
        """Whether it is no reply."""
        return self.response is None or self.response.status_code != 200

    @property
    def taken(self) -> _Taken | None:
        """What it took; ``None``: nothing."""
        if self.response is None:
            return None
        body = self.response.body
        return body.glimp or (body.error.partial if body.error is not None else None)


@dataclass
class ModelTotals:
    """Tokens of one model.

    Attributes:
        kept: That are part of replies.
        input: Prompt tokens of all requests, cached ones included.
        cached: Those read from a cache.
        output: Generated, discarded ones included.
    """

    kept: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0


@dataclass
class Totals:
    """Sums over the results of a batch, those of earlier runs included.

    Attributes:
        requests: All requests.
        done: Replies.
        failed: Requests that failed.
        small: Tokens of the small model.
        large: Tokens of the large model.
        cost: In the currency of the prices; ``None``: no result has a cost.
    """

    requests: int
    done: int = 0
    failed: int = 0
    small: ModelTotals = field(default_factory=ModelTotals)
    large: ModelTotals = field(default_factory=ModelTotals)
    cost: float | None = None

    def add(self, result: Result) -> None:
        """Count a result."""
        if result.failed:
            self.failed += 1
        else:
            self.done += 1
        taken = result.taken
        if taken is None:
            return
        if taken.cost is not None:
            self.cost = (self.cost or 0.0) + taken.cost
        if taken.tokens is None:
            return
        pairs = ((self.small, taken.tokens.small), (self.large, taken.tokens.large))
        for total, tokens in pairs:
            total.kept += tokens.kept
            total.input += tokens.input
            total.cached += tokens.cached
            total.output += tokens.output

    @property
    def left(self) -> int:
        """Requests without a result."""
        return self.requests - self.done - self.failed

    @property
    def large_share(self) -> float:
        """The large model's share of all kept tokens, 0 to 1."""
        kept = self.small.kept + self.large.kept
        return self.large.kept / kept if kept else 0.0
