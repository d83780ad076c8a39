"""What a bench has answered so far, by arm, item and repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glimp_integrations.bench.arms import Arm
from glimp_integrations.bench.plan import BenchPlan
from glimp_integrations.bench.store import Store
from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.trace import Trace

__all__ = ["Place", "Records", "place_of"]

Place = tuple[str, str, int]
"""An arm's name, an item's id, and which repeat of the item, from 1."""


class Records:
    """The answers in a store, found by their places.

    Args:
        plan: The items and arms.
        store: Where answers are.

    Raises:
        ConfigError: The store has answers to other questions under the same ids.
    """

    def __init__(self, plan: BenchPlan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.items = {item.id: item for item in plan.task.items}
        self.done: dict[Place, Mapping[str, Any]] = {}
        self.ungraded: dict[Place, Mapping[str, Any]] = {}
        for line in store.lines:
            if line.get("kind") not in ("answer", "ungraded"):
                continue
            item = self.items.get(line["item"])
            if item is not None and item.digest != line["digest"]:
                raise ConfigError(
                    f"{store.folder} has an answer to another question called "
                    f"{line['item']!r}: the questions have changed. Choose another --out"
                )
            records = self.done if line["kind"] == "answer" else self.ungraded
            records[place_of(line)] = line

    def add(self, line: Mapping[str, Any]) -> None:
        """Store a graded answer."""
        self.store.add(line)
        self.done[place_of(line)] = line

    def grade(self, place: Place) -> bool | None:
        """Whether the answer at a place is right; ``None``: there is none yet."""
        line = self.done.get(place)
        return None if line is None else line["right"]

    def has_any(self, arm: str) -> bool:
        """Whether an arm has answered anything."""
        return any(name == arm for name, _, _ in self.done)

    def check_settings(self, arms: Sequence[Arm]) -> None:
        """Check that what is stored of these arms was answered with the settings they have now.

        Raises:
            ConfigError: It was not.
        """
        for arm in arms:
            mine = self.plan.hash_of(arm)
            for (name, _, _), line in [*self.done.items(), *self.ungraded.items()]:
                if name == arm.name and line["settings"] != mine:
                    raise ConfigError(
                        f"{self.store.folder} has answers of {name!r} with other settings; "
                        "choose another --out"
                    )

    def share_for(self, arm: Arm, say: Callable[[str], None]) -> float | None:
        """The share of steps that a random arm sends to the large model.

        It is read from the store, else counted from the answers of the routed arm; ``None``: that
        arm sent no step, or every step, to the large model, which ``say`` is told.
        """
        for stored in self.store.lines:
            if stored.get("kind") == "share" and stored["arm"] == arm.name:
                return float(stored["share"])
        steps = large = 0
        for (name, item, _), line in self.done.items():
            if name == arm.like and item in self.items:
                decided = [s for s in Trace.model_validate(line["trace"]).steps if s.decided]
                steps += len(decided)
                large += sum(s.author == "large" for s in decided)
        if not 0 < large < steps:
            say(
                f"{arm.like} sent {large} of {steps} decided steps to the large model, so "
                f"random routing has nothing to choose: {arm.name} is left out"
            )
            return None
        share = large / steps
        counts = {"large_steps": large, "steps": steps}
        self.store.add({"kind": "share", "arm": arm.name, "share": share, **counts})
        return share


def place_of(line: Mapping[str, Any]) -> Place:
    """The place of a stored line; lines of before there were repeats are of the first."""
    return line["arm"], line["item"], line.get("repeat", 1)
