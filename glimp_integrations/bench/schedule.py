"""The order of a bench, and what it knows of the servers' caches.

Arms take turns, because a shared machine drifts. A server's slot keeps the last prompt it read, so
the next arm must not ask the same question: in round i, arm k is at item i - k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glimp_integrations.trace.trace import Trace

__all__ = ["Slots", "rounds"]


def rounds(arms: Sequence[str], items: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every arm at every item once: the first arm first, the others one item later each.

    Arms start and end one after the other, like runners sent off one by one, so no two neighbours
    share an item. A model that several arms leave out may still hold an older item;
    :class:`Slots` knows.
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
        """Whether a model may still have this item's prompt at hand."""
        return item in self._last.values()

    def used(self, item: str, trace: Trace) -> None:
        """An item was answered so; a glimpse is the small model's."""
        for step in trace.steps:
            self._last[step.author] = item
            if step.entropy is not None:
                self._last["small"] = item

    def forget(self) -> None:
        """Both models have read something else since, or nothing is known."""
        self._last.clear()
