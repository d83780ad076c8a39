"""What is known of one answer, of an arm, and of two arms beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glimp_integrations.bench.stats import Interval, McNemar
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import Trace

__all__ = ["Answer", "ArmFigures", "Comparison"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one arm.

    Attributes:
        repeat: Which answer to this item it is, from 1.
        seconds: The time from the question to the end of the answer.
        ideal: The least seconds that its decisions take on this pair; ``None``: the speed was not
            measured.
    """

    item: str
    right: bool
    score: float
    marked: bool
    seconds: float
    ideal: float | None
    trace: Trace
    usage: Usage
    repeat: int = 1


@dataclass(frozen=True)
class ArmFigures:
    """One row of the table.

    Attributes:
        accuracy: The share of right answers, with Wilson's interval; where items are repeated it is
            pass@1, and the interval counts an item's answers for less than those of other items.
        seconds: The mean of an item.
        ideal: The mean of the least seconds that the decisions take, one answer at a time; ``None``
            without measured speed.
        rho: Measured over ideal time, all items together; ``None`` without measured speed, and
            where several items were answered at a time.
        large_share: The large model's share of kept tokens.
        step_share: The large model's share of the steps that a policy decided on; ``None``: it
            decided on none.
        threshold: In nats; ``None``: no threshold decided.
        cached: The mean number of prompt tokens that were in a cache at the first step. If it is
            larger in one arm than in another, their times are not comparable. ``None``: the
            servers do not report it.
        cost: The cost of all answers, in the prices' currency; ``None`` without prices.
    """

    name: str
    kind: str
    threshold: float | None
    share: float | None
    answers: Sequence[Answer]
    errors: int
    accuracy: Interval
    seconds: float
    ideal: float | None
    small_tokens: int
    large_tokens: int
    discarded: int
    requests: int
    large_share: float
    step_share: float | None
    unmarked: int
    cached: float | None
    rho: float | None
    cost: float | None

    @property
    def n(self) -> int:
        """The number of answers."""
        return len(self.answers)

    def of_repeat(self, number: int) -> list[Answer]:
        """The answers of one repeat."""
        return [answer for answer in self.answers if answer.repeat == number]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the items both have answered.

    Attributes:
        n: The number of these items.
        right: McNemar's test and the difference of accuracies, first minus second.
        time: Seconds of the first over seconds of the second.
        ideal: The same ratio of ideal seconds; ``None`` without measured speed.
        cost: The cost of the first over that of the second; ``None`` without prices.
    """

    first: str
    second: str
    n: int
    right: McNemar
    time: Interval
    ideal: Interval | None
    cost: float | None
