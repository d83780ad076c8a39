"""The order of a bench, and which prompts may still be in the servers' caches.

Arms take turns, because a shared machine gets slower and faster in the course of hours. A server
keeps the last prompt it read, so the next arm must not ask the same question: it would get the
prompt for free. In round i, arm k is at item i - k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from glimp_integrations.trace.trace import Trace

__all__ = ["Slots", "rounds"]


One = TypeVar("One")


def rounds(arms: Sequence[str], items: Sequence[One]) -> Iterator[tuple[str, One]]:
    """Every pair of an arm and an item once; each arm is one item later than the arm before it.

    So no two neighbours share an item. A model that several arms in a row do not use may still
    hold an older item; :class:`Slots` keeps account of that.
    """
    for i in range(len(items) + len(arms) - 1):
        for k, arm in enumerate(arms):
            if 0 <= i - k < len(items):
                yield arm, items[i - k]


class Slots:
    """The last item each model has read."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def may_know(self, item: str) -> bool:
        """Whether this item's prompt may still be in a model's cache."""
        return item in self._last.values()

    def used(self, item: str, trace: Trace) -> None:
        """Note which models have read an item; a glimpse is read by the small model."""
        for step in trace.steps:
            self._last[step.author] = item
            if step.entropy is not None:
                self._last["small"] = item

    def forget(self) -> None:
        """Note that both models have read something else, or that nothing is known."""
        self._last.clear()
