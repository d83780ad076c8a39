"""What routed calls took, over what the large model alone would have, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Outcome", "Ratio", "Route", "money_ratio", "time_ratio"]

Route = Literal["routed", "large_alone"]
"""Whether both models write a call, or the large one writes all of it."""

# Ratios of single calls differ at least so much, as a standard deviation. A few calls that happen
# to be alike say less than they seem to.
_SPREAD = 0.15


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call took.

    Attributes:
        route: How it was written.
        seconds: From the first request to the last token.
        tokens: Of the reply, reasoning included.
        prompt: Length of the prompt, in any one unit.
        writing: Seconds and tokens of the large model after the first token of its steps.
        cost: In the currency of the prices; ``None``: no prices.
        alone_cost: What the large model alone would have cost; ``None``: likewise.
        large_share: The large model's share of the steps that were decided, 0 to 1.
    """

    route: Route
    seconds: float
    tokens: int
    prompt: int
    writing: tuple[float, int] = (0.0, 0)
    cost: float | None = None
    alone_cost: float | None = None
    large_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio that was estimated from some calls.

    Attributes:
        value: Below 1: routing took less.
        error: Its standard error.
    """

    value: float
    error: float

    @property
    def loses(self) -> bool:
        """Whether routing takes more, by more than chance explains."""
        return self.value - self.error > 1

    @property
    def wins(self) -> bool:
        """Whether routing takes less, by more than chance explains."""
        return self.value + self.error < 1


def money_ratio(routed: Collection[Outcome]) -> Ratio | None:
    """The ratio in the currency of the prices, which tell what the same text would have cost."""
    return _ratio([(o.cost or 0.0, o.alone_cost or 0.0) for o in routed])


def time_ratio(
    routed: Collection[Outcome],
    alone: Collection[Outcome],
    writing: Collection[tuple[float, int]],
) -> Ratio | None:
    """The ratio in seconds.

    Args:
        routed: Calls that both models wrote.
        alone: Calls that the large model wrote alone: of the same kind, but other ones.
        writing: Seconds and tokens of the large model's writing.
    """
    if not alone:
        return None
    written = sum(tokens for _, tokens in writing)
    token = sum(seconds for seconds, _ in writing) / written if written else 0.0
    # What is not writing is reading: as long as the prompt is.
    reading = sum(max(0.0, o.seconds - token * o.tokens) for o in alone)
    reading /= max(1, sum(outcome.prompt for outcome in alone))
    pairs = {
        route: [(o.seconds, reading * o.prompt + token * o.tokens) for o in outcomes]
        for route, outcomes in (("routed", routed), ("alone", alone))
    }
    ratio, foretold = _ratio(pairs["routed"]), _ratio(pairs["alone"])
    if ratio is None or foretold is None:
        return None
    return Ratio(ratio.value, math.hypot(ratio.error, ratio.value * foretold.error))


def _ratio(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """The ratio of two sums, and its standard error.

    The usual estimate for a ratio of sums (W. G. Cochran, Sampling Techniques, 3rd ed., 1977,
    section 6.4): long calls count as much as they take.
    """
    took, alone = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    if not alone:
        return None
    value, count = took / alone, len(pairs)
    squares = sum((took - value * alone) ** 2 for took, alone in pairs)
    spread = math.sqrt(squares * count / max(1, count - 1)) / alone
    return Ratio(value, max(spread, value * _SPREAD / math.sqrt(count)))
