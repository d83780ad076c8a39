"""What a model writes: tokens with their log-probabilities, and how a stream of them ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from glimp_integrations.method.entropy import Estimator

__all__ = [
    "Ended",
    "EntropyFunction",
    "LogprobsFunction",
    "StreamEnd",
    "Token",
    "count_of",
]

Ended = Literal["eos", "length", "context"]
"""End of sequence; ``max_tokens`` reached; the context window is full."""

StreamEnd = Ended | Literal["stop_string"]
"""How a stream ends: as above, or after one of the texts in ``Request.stop``."""

EntropyFunction = Callable[[Estimator, int], Awaitable[float]]
"""From an estimator and k to H in nats at one place; computed only where it is needed."""

LogprobsFunction = Callable[[int], Awaitable[tuple[float, ...]]]
"""From k to the natural-log probabilities of the k likeliest tokens at one place, highest first."""


_MOST_TOKENS = 10**12
"""No model reads or writes more; sums of such counts stay exact."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token as it was generated.

    Attributes:
        text: Its text. Empty for the end of sequence and for a token that only begins a
            character; the text then comes with the token that completes it.
        logprobs: Natural-log probabilities of the k likeliest tokens at this place, highest
            first, of the unscaled distribution; ``None`` where none were asked for or none
            belong to just this token.
        entropy_fn: Computes H at this place from the whole distribution, for models in this
            process; instead of ``logprobs``.
        logprobs_fn: Computes what ``logprobs`` would be, likewise.
        sure: Whether the likeliest token at this place has a probability above 0.95, where there
            are no ``logprobs`` to tell; ``None``: not known.
        pending: A character has begun and is not complete.
        multi_token: ``text`` may hold several tokens (a server that groups its output).
        count: Number of tokens, as far as known.
    """

    text: str
    logprobs: tuple[float, ...] | None = None
    entropy_fn: EntropyFunction | None = None
    logprobs_fn: LogprobsFunction | None = None
    sure: bool | None = None
    pending: bool = False
    multi_token: bool = False
    count: int = 1


def count_of(value: Any) -> int | None:
    """A number of tokens, from a server or a backend; ``None`` where it cannot be one.

    Some write whole numbers with a point: ``3.0`` is 3, and 2.5 is no number of tokens.
    """
    if type(value) is int:
        return value if 0 <= value <= _MOST_TOKENS else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value <= _MOST_TOKENS or value != int(value):  # NaN is in no range
        return None
    return int(value)
