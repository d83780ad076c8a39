"""From the answers of a task to its rows, and from the rows of all tasks to the table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.signals.bounds import Tuned
from glimp_integrations.bench.stats import Interval, compare_right, ratio
from glimp_integrations.bench.summary import ArmFigures, Summary

__all__ = ["Way", "control_share", "figures", "markdown", "read", "step_share"]

NEAR = 0.05
"""Shares of steps that count as the same."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to decide on one task.

    Attributes:
        name: For the table.
        arm: Of the bench; ``None``: it was not run.
        bound: As its policy takes it; ``None``: it has none.
        tuned: What it came to on the tuning questions; ``None``: it was not tuned.
    """

    name: str
    arm: str | None
    bound: float | None = None
    tuned: Tuned | None = None

    @property
    def note(self) -> str:
        """Why it was not run."""
        if self.tuned is None or self.tuned.decides:
            return ""
        if self.tuned.reached:
            return "fires at every step: large alone"
        return "never fires: small alone"


def step_share(arm: ArmFigures) -> float:
    """The large model's share of all steps that have a text, whoever decided on them."""
    steps = [step for answer in arm.answers for step in answer.trace.steps if step.text]
    return sum(step.author == "large" for step in steps) / len(steps) if steps else math.nan


def control_share(reached: float, share: float) -> float | None:
    """The share of the random arm that a way is compared with: the wanted one where that is near.

    Others are tenths, so that several ways have one control. ``None``: one model wrote everything.
    """
    if not 0 < reached < 1:
        return None
    if abs(reached - share) <= NEAR:
        return share
    return min(0.95, max(0.05, round(reached, 1)))


def figures(
    summary: Summary, ways: Sequence[Way], share: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The rows of one task, as JSON data.

    Args:
        summary: Of the questions reported on.
        ways: In the order of the table.
        share: The wanted share of large steps, 0 to 1.
        about: What else is worth knowing.
    """
    return {**about, "share": share, "rows": [_row(way, summary, share) for way in ways]}


def _row(way: Way, summary: Summary, share: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": way.name,
        "arm": way.arm,
        "bound": way.bound,
        "tuned_share": None if way.tuned is None else way.tuned.reached,
        "note": way.note,
    }
    arm = None if way.arm is None else summary.arm(way.arm)
    if arm is None or not arm.n:
        return row
    row |= {
        "n": arm.n,
        "errors": arm.errors,
        "right": _interval(arm.accuracy),
        "large_steps": step_share(arm),
        "large_tokens": arm.large_share,
    }
    row["steps"] = sum(len(a.trace.steps) for a in arm.answers) / arm.n
    if arm.name != "large" and (large := summary.arm("large")) is not None:
        mine, other = _paired(arm, large)
        row["time"] = _interval(ratio([a.seconds for a in mine], [b.seconds for b in other]))
    chance = control_share(step_share(arm), share)
    control = None if chance is None else summary.arm(f"random@{chance:g}")
    if arm.kind == "routed" and control is not None:
        mine, other = _paired(arm, control)
        test = compare_right([a.right for a in mine], [b.right for b in other])
        row["against_random"] = {
            "arm": control.name,
            "large_steps": step_share(control),
            "n": len(mine),
            "only_this": test.only_first,
            "only_random": test.only_second,
            "difference": _interval(test.difference),
            "p": test.p,
        }
    return row


def _paired(one: ArmFigures, two: ArmFigures) -> tuple[list[Any], list[Any]]:
    """The answers to the questions that both arms have answered."""
    others = {answer.item: answer for answer in two.answers}
    mine = [answer for answer in one.answers if answer.item in others]
    return mine, [others[answer.item] for answer in mine]


def _interval(interval: Interval) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}


def read(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of all tasks that were measured."""
    paths = [folder / f"{name}.json" for name in names]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]


COLUMNS = (
    "task",
    "who writes the next step",
    "bound",
    "right, 95 %",
    "large steps",
    "large tokens",
    "time / large",
    "minus random, points",
    "p",
)


def markdown(tasks: Sequence[Mapping[str, Any]]) -> str:
    """The table of all tasks, as it stands in ``docs/explanation/results.md``."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(COLUMNS) - 2),
    ]
    for task in tasks:
        lines += ["| " + " | ".join(_cells(task["task"], row)) + " |" for row in task["rows"]]
    return "\n".join(lines) + "\n"


def _cells(task: str, row: Mapping[str, Any]) -> list[str]:
    bound = "" if row["bound"] is None else f"{row['bound']:.3g}"
    if "right" not in row:
        return [task, row["name"], bound, row["note"], "", "", "", "", ""]
    against = row.get("against_random")
    time = _spread(row["time"], 1, "%.2f", "%.2f-%.2f") if "time" in row else "1"
    return [
        task,
        row["name"],
        bound,
        _spread(row["right"], 100, "%.0f %%", "%.0f-%.0f"),
        f"{100 * row['large_steps']:.0f} %",
        f"{100 * row['large_tokens']:.0f} %",
        time,
        _spread(against["difference"], 100, "%+.0f", "%+.0f to %+.0f") if against else "",
        f"{against['p']:.2g}" if against else "",
    ]


def _spread(interval: Mapping[str, float | None], scale: float, one: str, two: str) -> str:
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return ""
    shown = one % (scale * value)
    if low is None or high is None:
        return shown
    return f"{shown} ({two % (scale * low, scale * high)})"
