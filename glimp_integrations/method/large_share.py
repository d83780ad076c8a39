"""Routing by a wanted share of steps: the threshold follows from what H was so far.

One number of nats means another share for every model, task and place in a chain. So the share is
given instead, and the threshold is the quantile of the values of H that were seen in the same
place: with a share of 0.25, three steps of four had a lower H. What the large model got too much
of, or too little, moves the quantile, so that the share comes out also where H drifts.

Before enough was seen, values stand in that were measured elsewhere (``prior``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import Any, get_args

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.policy import Glimpse, Place, StepStart, Write, WrittenStep

__all__ = ["FIRST_GUESS", "LargeShare", "Prior", "Seen", "quantile"]

Seen = tuple[float, bool]
"""H in nats of one glimpsed step, and whether the large model wrote it."""

Prior = Mapping[Place, Sequence[float]]
"""Values of H in nats, by place; 20 equally likely ones describe a distribution well enough."""

_KEPT = 128  # values a place remembers
_BALANCED = 64  # steps over which the share is kept in balance
_PRIOR = 20  # values; seen ones take their place one by one
_GAIN = 0.1  # of the quantile, for a step that the large model got too much or too little
_MOST = 6.0  # steps; what went wrong longer ago is not made up for

# H of a first token is small most of the time, and large now and then (paper, figure 3).
FIRST_GUESS: Sequence[float] = (
    *(0.0002, 0.001, 0.004, 0.01, 0.03, 0.06, 0.1, 0.17, 0.25, 0.35),
    *(0.46, 0.57, 0.69, 0.81, 0.94, 1.07, 1.22, 1.4, 1.65, 2.1),
)
"""Values of H in nats where nothing is known of a small model."""


class LargeShare:
    """Sends a wanted share of the glimpsed steps to the large model.

    One object serves many conversations at once. What a conversation teaches the others is taken
    over when it is over, so the same sequence of conversations gets the same decisions.

    It can be pickled, and :func:`glimp_integrations.save_share` writes what it has learned to a
    file.

    Args:
        share: 0 to 1, both excluded.
        prior: Values of H that stand in for the first ones.

    Raises:
        ConfigError: The share is none.
    """

    name = "large_share"

    def __init__(self, share: float, prior: Prior | None = None) -> None:
        if not 0 < share < 1:
            raise ConfigError(
                f"the share of the large model's steps is {share:g}: give a number between 0 and "
                "1, such as 0.25 for every fourth step"
            )
        self.share = share
        self.prior: Prior = prior or {}
        self._seen: dict[Place, tuple[Seen, ...]] = {}
        self._lock = Lock()

    def decide(self, start: StepStart) -> Glimpse | Write:
        """The large model writes where H is above :meth:`bound`."""
        if start.glimpse is None:
            return Glimpse()
        h, bound = start.glimpse.entropies[0], self.bound(start.place, start.steps)
        wanted = f"the bound for a share of {self.share:.4g}"
        if h > bound:
            return Write("large", f"H {h:.2f} > {bound:.2f}, {wanted}", h, bound)
        return Write("small", f"H {h:.2f} <= {bound:.2f}, {wanted}", h, bound)

    def bound(self, place: Place, steps: Sequence[WrittenStep] = ()) -> float:
        """The threshold in nats that is in force at a place.

        Args:
            place: Where the next step stands.
            steps: The conversation's own steps so far.
        """
        own = islice(_seen_in(place, reversed(steps)), _KEPT)
        newest_first = [*own, *reversed(self._seen.get(place, ()))][:_KEPT]
        recent = newest_first[:_BALANCED]
        surplus = sum(large for _, large in recent) - self.share * len(recent)
        surplus = max(-_MOST, min(_MOST, surplus))
        values = [h for h, _ in newest_first]
        missing = _PRIOR - len(values)
        if missing > 0:
            values += _thinned(self.prior.get(place) or FIRST_GUESS, missing)
        level = quantile(sorted(values), 1 - self.share + _GAIN * surplus)
        # Where many values are the same, the quantile is that value, and above it are too few of
        # them. So they go to the large model in turn: whenever it has half a step too few.
        too_few = self.share - surplus >= 0.5
        return math.nextafter(level, -math.inf) if too_few else level

    def learn(self, steps: Sequence[WrittenStep]) -> None:
        """Take over what a conversation's steps showed; it is over."""
        with self._lock:
            for place in get_args(Place):
                new = tuple(_seen_in(place, steps))
                if new:
                    self._seen[place] = (*self._seen.get(place, ()), *new)[-_KEPT:]

    @property
    def seen(self) -> dict[Place, tuple[Seen, ...]]:
        """What was learned, by place, oldest first: H in nats, and if the large model wrote it."""
        return dict(self._seen)

    @seen.setter
    def seen(self, seen: Mapping[Place, Iterable[Seen]]) -> None:
        """Go on from what was learned before."""
        with self._lock:
            self._seen = {place: tuple(values)[-_KEPT:] for place, values in seen.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to its process.
        prior = {place: list(values) for place, values in self.prior.items()}
        return {"share": self.share, "prior": prior, "seen": self.seen}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["share"], state["prior"])  # type: ignore[misc]
        self.seen = state["seen"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.share})"


def _seen_in(place: Place, steps: Iterable[WrittenStep]) -> Iterable[Seen]:
    return (
        (step.entropy, step.author == "large")
        for step in steps
        if step.place == place and step.entropy is not None
    )


def _thinned(values: Sequence[float], count: int) -> list[float]:
    """``count`` of the values, spread over all of them."""
    ordered = sorted(values)
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def quantile(ordered: Sequence[float], level: float) -> float:
    """Between the values around the level; from 1 on nothing is above it, from 0 on all is."""
    if level >= 1:
        return ordered[-1]
    if level <= 0:
        return -1.0
    at = min(max(level * len(ordered) - 0.5, 0.0), len(ordered) - 1.0)
    lower = int(at)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (at - lower) * (ordered[upper] - ordered[lower])
