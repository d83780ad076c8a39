"""A bound for each signal, so that the large model writes a wanted share of the steps.

What was recorded on other questions is a value for each step's start. A step is the large model's
where the value is above the bound; where there is none, the signal cannot fire.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Tuned", "between", "tuned"]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A bound, and what it comes to on the steps it was chosen on.

    Attributes:
        bound: Values above it fire; ``None``: there was no value at any step.
        reached: The large model's share of those steps, 0 to 1.
    """

    bound: float | None
    reached: float

    @property
    def decides(self) -> bool:
        """Whether both models get steps; otherwise it is one of them alone."""
        return 0 < self.reached < 1


def tuned(values: Sequence[float | None], share: float, always: int = 0) -> Tuned:
    """The bound that comes nearest to a share, and fires at least once.

    Equal values fall on the same side of every bound, so a share between two of them cannot be
    reached. Of two shares that are equally near, it is the smaller one.

    Args:
        values: One for each step's start, in any order; ``None``: the signal cannot fire there.
        share: The large model's wanted share of all of them, 0 to 1.
        always: Steps, of those without a value, which are the large model's in any case.
    """
    n = len(values)
    levels = sorted((value for value in values if value is not None), reverse=True)
    if not levels:
        return Tuned(None, always / n if n else 0.0)
    # So many values fire that no equal one is left out.
    cuts = [k for k in range(1, len(levels)) if levels[k] < levels[k - 1]] + [len(levels)]
    fired = min(cuts, key=lambda k: (abs((always + k) / n - share), k))
    lowest = levels[fired - 1]
    highest_left = levels[fired] if fired < len(levels) else lowest - 1
    return Tuned(between(highest_left, lowest), (always + fired) / n)


def between(low: float, high: float) -> float:
    """A number of few digits, at least ``low`` and below ``high``, near the middle."""
    middle = low + (high - low) / 2
    scale = math.floor(math.log10(high - low)) if high > low else 0
    for digits in range(max(0, -scale), 18):
        number = round(middle, digits) + 0.0  # no "-0"
        if low <= number < high:
            return number
    return low
