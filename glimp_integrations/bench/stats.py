"""The statistics of a comparison: intervals and paired tests, computed by scipy.

All intervals are two-sided, at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = [
    "Interval",
    "McNemar",
    "compare_repeated",
    "compare_right",
    "difference",
    "pass_rate",
    "ratio",
    "wilson",
]

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
        only_first: Items that only the first arm had right; with repeats, more often right.
        only_second: Items that only the second arm had right, likewise.
        p: The p value of McNemar's exact test, two-sided; with repeats, of the sign-flip test.
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
    interval = _stats().binomtest(right, n).proportion_ci(method="wilson")
    return Interval(right / n, float(interval.low), float(interval.high))


def compare_right(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Accuracy of two arms on the same items, in the same order; both of shape ``(n,)``.

    McNemar's exact test is the binomial test on the items only one arm had right.
    """
    pairs = list(zip(first, second, strict=True))
    both = sum(a and b for a, b in pairs)
    b = sum(x and not y for x, y in pairs)
    c = sum(y and not x for x, y in pairs)
    p = float(_stats().binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
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
    return _paired(one, two, across / math.sqrt(margins) if margins else 0.0)


def _paired(one: Interval, two: Interval, phi: float) -> Interval:
    """The difference of two proportions with correlation ``phi``, from their intervals."""

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    delta = one.value - two.value
    return Interval(
        delta,
        delta - reach(one.value - one.low, two.high - two.value),
        delta + reach(two.value - two.low, one.high - one.value),
    )


def pass_rate(outcomes: Sequence[Sequence[bool]]) -> Interval:
    """The share of right answers where items were answered several times: pass@1.

    The interval is Wilson's, at the effective number of answers (Kish's design effect, with the
    analysis-of-variance estimate of the correlation between repeats of an item). Answers to one
    item are alike, so four repeats of 30 items tell less than 120 items; where they are all the
    same, they tell what 30 tell. With one answer an item it is Wilson's interval as it is.

    Args:
        outcomes: For every item, whether each of its answers was right; no item is without.
    """
    sizes = [len(item) for item in outcomes]
    n, k = sum(sizes), len(sizes)
    right = sum(map(sum, outcomes))
    if n == k:
        return wilson(right, n)
    p = right / n
    means = [sum(item) / len(item) for item in outcomes]
    within = sum(m * q * (1 - q) for m, q in zip(sizes, means, strict=True)) / (n - k)
    correlation = 1.0
    if (
        k > 1
        and (between := sum(m * (q - p) ** 2 for m, q in zip(sizes, means, strict=True)) / (k - 1))
        + within
    ):
        typical = (n - sum(m * m for m in sizes) / n) / (k - 1)
        correlation = (between - within) / (between + (typical - 1) * within)
    weight = sum(m * m for m in sizes) / n
    effective = n / (1 + (weight - 1) * min(max(correlation, 0.0), 1.0))
    return _wilson(p, effective)


def _wilson(p: float, n: float) -> Interval:
    """Wilson's interval for a number of trials that need not be whole."""
    z2 = NormalDist().inv_cdf(0.975) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def compare_repeated(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]) -> McNemar:
    """Accuracy of two arms on the same items, in the same order, each answered several times.

    The test flips the sign of the difference of each item's shares of right answers: in all ways
    for up to 13 items that differ, else in 9,999 random ones. With one answer an item that is
    McNemar's exact test. The interval is Newcombe's, from those of :func:`pass_rate` and the
    correlation of the shares.
    """
    permutation_test = _stats().permutation_test
    import numpy as np

    one, two = ([sum(item) / len(item) for item in side] for side in (first, second))
    # An item without a difference has no sign to flip.
    differing = [(a, b) for a, b in zip(one, two, strict=True) if a != b]
    more = sum(a > b for a, b in differing)
    p = 1.0
    if differing:
        p = float(
            permutation_test(
                tuple(zip(*differing, strict=True)),
                lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
                permutation_type="samples",
                vectorized=True,
                rng=np.random.default_rng(0),
            ).pvalue
        )
    phi = 0.0
    if len(set(one)) > 1 and len(set(two)) > 1:
        phi = float(np.corrcoef(one, two)[0, 1])
    interval = _paired(pass_rate(first), pass_rate(second), phi)
    return McNemar(more, len(differing) - more, min(p, 1.0), interval)


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


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ConfigError(
            "statistics need scipy: pip install 'glimp-integrations[bench]'"
        ) from error
    return stats
