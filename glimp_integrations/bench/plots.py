"""The plots of a bench, as PNG files."""

from __future__ import annotations

import io
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glimp_integrations.bench.summary import ArmFigures, Summary
from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.step_lines import visible
from glimp_integrations.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_plots"]

# The cyan and magenta of the terminal, dark enough for paper. Every kind has a marker as well,
# for readers who do not see the colours.
COLOURS = {"small": "#0e7490", "large": "#a21caf", "routed": "#1f2937", "random": "#b45309"}
MARKERS = {"small": "s", "large": "D", "routed": "o", "random": "x"}


def write_plots(summary: Summary, folder: Path) -> list[Path]:
    """Write what can be drawn: accuracy over time, H by author and outcome, share over threshold.

    Raises:
        ConfigError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib: pip install 'glimp-integrations[bench]'"
        ) from error
    written = []
    for name, draw in (
        ("frontier", _frontier),
        ("entropy", _entropy),
        ("share", _share),
    ):
        # A Figure without pyplot needs no window system and has no global state.
        figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
        if draw(figure, summary):
            path = folder / f"{name}.png"
            with warnings.catch_warnings():
                # A name may have characters that no font here has; they are drawn as boxes.
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                picture = io.BytesIO()
                figure.savefig(picture, format="png")
            write_whole(path, picture.getvalue())
            written.append(path)
    return written


def _frontier(figure: Figure, summary: Summary) -> bool:
    arms = [arm for arm in summary.arms if arm.n]
    if not arms:
        return False
    axes = figure.add_subplot()
    for number, arm in enumerate(arms):
        accuracy = arm.accuracy
        below = 100 * (accuracy.value - accuracy.low)
        above = 100 * (accuracy.high - accuracy.value)
        axes.errorbar(
            summary.seconds_of(arm),
            100 * accuracy.value,
            yerr=[[below], [above]],
            fmt=MARKERS[arm.kind],
            color=COLOURS[arm.kind],
            markersize=7,
            capsize=3,
            elinewidth=0.9,
            label=_literal(f"{number + 1}  {arm.name}"),
        )
        # Numbers on the points, names in the legend: neighbours' names would cover each other.
        axes.annotate(
            str(number + 1),
            (summary.seconds_of(arm), 100 * accuracy.value),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=10,
            color=COLOURS[arm.kind],
        )
    best = _undominated(arms, summary)
    axes.plot(
        [summary.seconds_of(a) for a in best],
        [100 * a.accuracy.value for a in best],
        color="#9ca3af",
        linewidth=1,
        linestyle=":",
        zorder=0,
        label="frontier: no arm is faster and better",
    )
    axes.set_xlim(0, 1.1 * max(summary.seconds_of(arm) for arm in arms))
    # The axis of time begins at 0, so that distances are ratios.
    lowest = 100 * min(arm.accuracy.low for arm in arms)
    axes.set_ylim(max(0, 10 * (lowest // 10) - 5), 104)
    kind = "ideal seconds" if summary.by_ideal else "seconds"
    axes.set_xlabel(f"{kind} per question (mean)")
    axes.set_ylabel("right answers, %  (bars: 95 % Wilson interval)")
    figure.suptitle(_title(summary, f"accuracy over time, n = {max(a.n for a in arms)}"))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return True


def _undominated(arms: list[ArmFigures], summary: Summary) -> list[ArmFigures]:
    """Arms in order of time, each more accurate than all faster ones."""
    kept: list[ArmFigures] = []
    for arm in sorted(arms, key=lambda a: (summary.seconds_of(a), -a.accuracy.value)):
        if not kept or arm.accuracy.value > kept[-1].accuracy.value:
            kept.append(arm)
    return kept


def _recorded(arm: ArmFigures) -> list[tuple[float, str, bool]]:
    """(H in nats, author, whether the answer was right) of every glimpsed step."""
    return [
        (step.entropy, step.author, answer.right)
        for answer in arm.answers
        for step in answer.trace.steps
        if step.entropy is not None
    ]


def _entropy(figure: Figure, summary: Summary) -> bool:
    # A policy need not glimpse: an arm without H has nothing to show.
    arms = [arm for arm in summary.arms if arm.kind == "routed" and _recorded(arm)][:4]
    rows_by_arm = {arm.name: _recorded(arm) for arm in arms}
    if not arms:
        return False
    figure.set_size_inches(10, 1.2 + 2.5 * len(arms))
    top = max(h for rows in rows_by_arm.values() for h, _, _ in rows)
    bins = [top * i / 30 for i in range(31)] if top > 0 else 10
    grid = figure.subplots(len(arms), 2, squeeze=False, sharex=True)
    for row, arm in zip(grid, arms, strict=True):
        rows = rows_by_arm[arm.name]
        by_author = {
            who: [h for h, author, _ in rows if author == who] for who in ("small", "large")
        }
        by_outcome = {
            "answer right": [h for h, _, right in rows if right],
            "answer wrong": [h for h, _, right in rows if not right],
        }
        _histogram(row[0], by_author, bins, [COLOURS["small"], COLOURS["large"]], stacked=True)
        _histogram(row[1], by_outcome, bins, ["#15803d", "#b91c1c"], stacked=False)
        for axes in row:
            if arm.threshold is not None:
                axes.axvline(arm.threshold, color="black", linewidth=1, linestyle="--")
        row[0].set_ylabel(_literal(f"{arm.name}\nsteps"))
        row[1].set_ylabel("density")
    grid[0][0].set_title("H by author (dashed: threshold)")
    grid[0][1].set_title("H by outcome (each of area 1)")
    for axes in grid[-1]:
        axes.set_xlabel("H of a step's first token, nats")
    figure.suptitle(_title(summary, "H of the steps"))
    return True


def _histogram(
    axes: Axes, groups: dict[str, list[float]], bins: Any, colours: list[str], *, stacked: bool
) -> None:
    named = [f"{name} ({len(values)})" for name, values in groups.items()]
    if stacked:
        axes.hist(list(groups.values()), bins=bins, color=colours, label=named, stacked=True)
    else:
        for values, colour, label in zip(groups.values(), colours, named, strict=True):
            if values:
                axes.hist(
                    values,
                    bins=bins,
                    color=colour,
                    label=label,
                    density=True,
                    histtype="step",
                    linewidth=1.6,
                )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)


def _share(figure: Figure, summary: Summary) -> bool:
    routed = [arm for arm in summary.arms if arm.kind == "routed" and ":" not in arm.name]
    levels = sorted((h for arm in routed for h, _, _ in _recorded(arm)))
    measured = [arm for arm in routed if arm.step_share is not None]
    if not levels or not measured:
        return False
    axes = figure.add_subplot()
    heights = [100 * (1 - (i + 1) / len(levels)) for i in range(len(levels))]
    axes.step(
        [0.0, *levels],
        [100.0, *heights],
        where="post",
        color="#64748b",
        linewidth=1.2,
        label=f"steps with H above the threshold ({len(levels)} recorded)",
    )
    xs = [arm.threshold or 0.0 for arm in measured]
    axes.plot(
        xs,
        [100 * (arm.step_share or 0) for arm in measured],
        "o",
        color=COLOURS["routed"],
        label="measured: share of decided steps",
    )
    axes.plot(
        xs,
        [100 * arm.large_share for arm in measured],
        "D",
        color=COLOURS["large"],
        fillstyle="none",
        label="measured: share of all tokens",
    )
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_xlabel("threshold, nats")
    axes.set_ylabel("large model, %")
    axes.set_title(_title(summary, "large share over threshold"))
    axes.legend(fontsize=9)
    axes.grid(alpha=0.25)
    return True


def _title(summary: Summary, of: str) -> str:
    name = textwrap.shorten(str(summary.manifest.get("task", "bench")), 200)
    return _literal("\n".join(textwrap.wrap(f"{name}: {of}", 80, break_long_words=True)))


def _literal(text: str) -> str:
    """The text as it is: matplotlib reads what is between two dollar signs as a formula."""
    return visible(text).replace("$", r"\$")
