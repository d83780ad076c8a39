"""The statistics of a comparison: intervals and paired tests, computed by scipy.

All intervals are two-sided, at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["Interval", "McNemar", "compare_right", "difference", "ratio", "wilson"]

RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; NaN where there are too few data."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two arms on the same items.

    Attributes:
        only_first: Items that only the first arm had right.
        only_second: Items that only the second arm had right.
        p: The p value of McNemar's exact test, two-sided.
        difference: Accuracy of the first minus that of the second.
    """

    only_first: int
    only_second: int
    p: float
    difference: Interval


def wilson(right: int, n: int) -> Interval:
    """Wilson's score interval of a share ``right / n``, without continuity correction."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    interval = _binomtest()(right, n).proportion_ci(method="wilson")
    return Interval(right / n, float(interval.low), float(interval.high))


def compare_right(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Accuracy of two arms on the same items, in the same order; both of shape ``(n,)``.

    McNemar's exact test is the binomial test on the items only one arm had right.
    """
    pairs = list(zip(first, second, strict=True))
    both = sum(a and b for a, b in pairs)
    b = sum(x and not y for x, y in pairs)
    c = sum(y and not x for x, y in pairs)
    p = float(_binomtest()(b, b + c, 0.5).pvalue) if b + c else 1.0
    return McNemar(b, c, p, difference(both, b, c, len(pairs) - both - b - c))


def difference(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """Interval of the difference of two paired proportions.

    Newcombe's tenth method (Statistics in Medicine 17, 2635-2650, 1998): Wilson's intervals of
    both proportions, combined with their correlation. It holds for few items and for differences
    near 0, where the textbook interval does not, and cannot leave [-1, 1].
    """
    n = both + only_first + only_second + neither
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    one, two = wilson(both + only_first, n), wilson(both + only_second, n)
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    across: float = both * neither - only_first * only_second
    if across > 0:
        # Newcombe's continuity correction of the correlation, never below 0.
        across = max(across - n / 2, 0)
    phi = across / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    delta = one.value - two.value
    return Interval(
        delta,
        delta - reach(one.value - one.low, two.high - two.value),
        delta + reach(two.value - two.low, one.high - one.value),
    )


def ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Interval:
    """Total of the first over total of the second, paired by item; both of shape ``(n,)``.

    The interval is a bootstrap over items (percentiles, 5000 resamples, fixed seed). With fewer
    than two items there is none.
    """
    total = sum(second)
    if not first or total <= 0:
        return Interval(math.nan, math.nan, math.nan)
    value = sum(first) / total
    if len(first) < 2 or len(set(zip(first, second, strict=True))) < 2:
        return Interval(value, math.nan, math.nan)
    import numpy as np
    from scipy.stats import bootstrap

    def statistic(x: object, y: object, axis: int) -> object:
        return np.sum(x, axis=axis) / np.sum(y, axis=axis)  # type: ignore[call-overload]

    interval = bootstrap(
        (np.asarray(first), np.asarray(second)),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",  # BCa divides by zero where all items have the same ratio
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(interval.low), float(interval.high))


def _binomtest() -> Any:
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise ConfigError(
            "statistics need scipy: pip install 'glimp-integrations[bench]'"
        ) from error
    return binomtest
