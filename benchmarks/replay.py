"""What every threshold would have done, from answers of each model alone.

A reply of one step is routed as a whole: its first token is glimpsed, and one of the two models
writes all of it. So where each question was answered by the small model (an arm that glimpses and
never hands over, such as ``routed@50``) and by the large one, all thresholds can be replayed
without asking anything again. Replies of several steps cannot: there the next step depends on who
wrote the last. What a replay finds is a choice, not a result: it is confirmed on other questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glimp_integrations.bench.summary import Answer

__all__ = ["Point", "Replay", "replay"]


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold.

    Attributes:
        threshold: Nats.
        share: Replies by the large model.
        right: Share of right replies.
        at_random: The same, expected of random routing with this share.
        time: Seconds over those of the large model alone.
    """

    threshold: float
    share: float
    right: float
    at_random: float
    time: float


@dataclass(frozen=True, slots=True)
class Replay:
    """All thresholds of one task.

    Attributes:
        n: Questions both models answered, the small one in one step.
        several: Questions left out: the small model's reply had several steps.
        small: Share of right replies of the small model.
        large: The same of the large model.
        only_large: Questions that only the large model had right.
        auc: Chance that H is higher where the small model was wrong than where it was right;
            0.5: H tells nothing. ``None``: it was always right, or always wrong.
        points: From the highest threshold (all small) to the lowest.
    """

    n: int
    several: int
    small: float
    large: float
    only_large: int
    auc: float | None
    points: Sequence[Point]

    def within(self, time: float) -> Point:
        """The lowest threshold that takes no more than this share of the large model's time."""
        return [point for point in self.points if point.time <= time or not point.share][-1]


def replay(small: Sequence[Answer], large: Sequence[Answer]) -> Replay:
    """Replay all thresholds. Both arms must have answered the same items.

    Raises:
        ValueError: No question was answered by both, in one step.
    """
    by_item = {answer.item: answer for answer in large}
    pairs = [(answer, by_item[answer.item]) for answer in small if answer.item in by_item]
    rows = sorted(
        (
            (answer.trace.steps[0].entropy or 0.0, answer, other)
            for answer, other in pairs
            if len(answer.trace.steps) == 1
        ),
        key=lambda row: row[0],
    )
    if not rows:
        raise ValueError("no question was answered by both models, by the small one in one step")
    n, alone = len(rows), sum(other.seconds for _, _, other in rows)
    points = []
    for kept in range(n, -1, -1):
        level = rows[kept - 1][0] if kept else 0.0
        if 0 < kept < n and rows[kept][0] == level:
            continue  # no threshold separates equal values of H
        small_ones, large_ones = rows[:kept], rows[kept:]
        seconds = sum(answer.seconds for _, answer, _ in small_ones) + sum(
            other.seconds + _glimpse(answer) for _, answer, other in large_ones
        )
        share = 1 - kept / n
        at_random = (1 - share) * _right(a for _, a, _ in rows) + share * _right(
            b for _, _, b in rows
        )
        right = sum(a.right for _, a, _ in small_ones) + sum(b.right for _, _, b in large_ones)
        points.append(Point(level, share, right / n, at_random / n, seconds / alone))
    return Replay(
        n,
        len(pairs) - n,
        _right(a for _, a, _ in rows) / n,
        _right(b for _, _, b in rows) / n,
        sum(b.right and not a.right for _, a, b in rows),
        _auc(rows),
        points,
    )


def _right(answers: Iterable[Answer]) -> int:
    return sum(answer.right for answer in answers)


def _glimpse(answer: Answer) -> float:
    """Seconds the small model took to its first token, which a handed-over step pays as well."""
    step = answer.trace.steps[0]
    return step.seconds if step.first_token_seconds is None else step.first_token_seconds


def _auc(rows: Sequence[tuple[float, Answer, Answer]]) -> float | None:
    wrong = [h for h, answer, _ in rows if not answer.right]
    right = [h for h, answer, _ in rows if answer.right]
    if not wrong or not right:
        return None
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(wrong, right).statistic) / (len(wrong) * len(right))
