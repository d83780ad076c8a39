"""The report of a bench: a table, a verdict in plain words, the plots."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from glimp_integrations.bench.plots import write_plots
from glimp_integrations.bench.stats import Interval
from glimp_integrations.bench.store import Store
from glimp_integrations.bench.summary import ArmFigures, Comparison, Summary, summarise
from glimp_integrations.bench.verdict import verdict
from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import Prices
from glimp_integrations.trace.step_lines import visible
from glimp_integrations.whole_files import write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["COLUMNS", "markdown", "rows", "write_report"]

COLUMNS = (
    "arm",
    "right",
    "accuracy",
    "95 %",
    "s/item",
    "ideal s",
    "rho",
    "tokens small",
    "tokens large",
    "large share",
    "large steps",
    "discarded",
    "requests",
    "unmarked",
    "cached",
    "errors",
    "cost",
)
LEAST_FIRST = (
    {"requests"},
    {"discarded"},
    {"cached", "unmarked"},
    {"tokens small", "tokens large"},
    {"large share"},
    {"ideal s", "rho"},
    {"right"},
)
"""Columns that a narrow terminal leaves out, in this order; ``report.md`` has all of them."""


def rows(summary: Summary) -> list[list[str]]:
    """The table's cells, one row for each arm; columns as in :data:`COLUMNS`."""
    return [_row(arm) for arm in summary.arms]


def _row(arm: ArmFigures) -> list[str]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.0f} %"

    right = sum(a.right for a in arm.answers)
    interval = f"{100 * arm.accuracy.low:.0f}-{100 * arm.accuracy.high:.0f}" if arm.n else ""
    return [
        arm.name,
        f"{right}/{arm.n}",
        percent(arm.accuracy.value) if arm.n else "",
        interval,
        _seconds(arm.seconds) if arm.n else "",
        "" if arm.ideal is None else _seconds(arm.ideal),
        "" if arm.rho is None else f"{arm.rho:.2f}",
        f"{arm.small_tokens:,}",
        f"{arm.large_tokens:,}",
        percent(arm.large_share),
        percent(arm.step_share),
        f"{arm.discarded:,}",
        f"{arm.requests:,}",
        str(arm.unmarked),
        "" if arm.cached is None else f"{arm.cached:.0f}",
        str(arm.errors),
        "" if arm.cost is None else f"{arm.cost:.6f}",
    ]


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _print_table(summary: Summary, console: Console) -> None:
    cells = rows(summary)
    # A terminal is narrow, so columns that are empty or 0 in every arm are in the file only.
    telling = [i for i in range(len(COLUMNS)) if any(row[i] not in ("", "0") for row in cells)]
    shown, unbounded = list(telling), console.options.update(max_width=1000)
    table = _table(summary, cells, shown)
    for names in LEAST_FIRST:
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
        shown = [i for i in shown if COLUMNS[i] not in names]
        table = _table(summary, cells, shown)
    console.print(table)
    if len(shown) < len(telling):
        missing = ", ".join(COLUMNS[i] for i in telling if i not in shown)
        console.print(f"more in report.md: {missing}", style="dim", highlight=False)
    if summary.repeats > 1:
        console.print(_repeats_note(summary), style="dim", highlight=False)


def _repeats_note(summary: Summary) -> str:
    return (
        f"{summary.repeats} repeats of every item, each with another seed: accuracy is their mean "
        "(pass@1), and its interval allows for answers to one item being alike."
    )


def _table(summary: Summary, cells: list[list[str]], shown: list[int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(str(summary.manifest.get("task")))), title_justify="left")
    for i in shown:
        table.add_column(COLUMNS[i], justify="right" if i else "left", no_wrap=i == 0)
    for row in cells:
        table.add_row(*(Text(visible(row[i])) for i in shown))
    return table


def markdown(summary: Summary) -> str:
    """The whole report as Markdown."""
    manifest = summary.manifest
    lines = [
        f"# {_cell(str(manifest.get('task')))}",
        "",
        f"Small: {_cell(str(manifest.get('small_model')))}. "
        f"Large: {_cell(str(manifest.get('large_model')))}. "
        f"Answers asked for as `{manifest.get('answer_format')}`. "
        f"Settings: `{json.dumps(manifest.get('settings'))}`.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows(summary)),
        "",
        *_repeats(summary),
        f"| arms | items | difference, points | 95 % | {summary.test} p | "
        f"{'ideal time' if summary.by_ideal else 'time'} ratio | 95 % |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_comparison(pair, summary.time_of(pair)) for pair in summary.comparisons),
    ]
    for text in verdict(summary):
        lines += ["", _cell(text)]
    if summary.speed is not None:
        small, large = summary.speed.small, summary.speed.large
        lines += [
            "",
            f"Measured, ms a token: written {1000 * small.token:.1f} (small) and "
            f"{1000 * large.token:.1f} (large), read {1000 * small.prefill:.1f} and "
            f"{1000 * large.prefill:.1f}.",
        ]
    return "\n".join(lines) + "\n"


def _repeats(summary: Summary) -> list[str]:
    """The accuracy of every repeat, where there are several."""
    if summary.repeats == 1:
        return []
    numbers = range(1, summary.repeats + 1)
    rows = []
    for arm in summary.arms:
        each = [arm.of_repeat(number) for number in numbers]
        shares = [
            f"{100 * sum(a.right for a in some) / len(some):.1f}" if some else "" for some in each
        ]
        mean = f"{100 * arm.accuracy.value:.2f}" if arm.n else ""
        rows.append([arm.name, mean, *shares])
    return [
        _repeats_note(summary),
        "",
        f"| arm | pass@1, % | {' | '.join(f'repeat {number}' for number in numbers)} |",
        "|---|" + "---:|" * (1 + summary.repeats),
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
        "",
    ]


def _comparison(pair: Comparison, time: Interval) -> str:
    delta = pair.right.difference
    cells = [
        f"{pair.first} / {pair.second}",
        str(pair.n),
        f"{100 * delta.value:+.1f}",
        f"{100 * delta.low:+.1f} to {100 * delta.high:+.1f}",
        f"{pair.right.p:.3f}",
        f"{time.value:.2f}",
        "" if math.isnan(time.low) else f"{time.low:.2f} to {time.high:.2f}",
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text escaped so that it cannot end a cell or begin markup."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def write_report(store: Store, prices: Prices | None, console: Console) -> Summary:
    """Print the table and the verdict, and write ``report.md`` and the plots into the folder.

    Raises:
        ConfigError: The folder cannot be written to, or matplotlib is missing.
    """
    summary = summarise(store, prices)
    _print_table(summary, console)
    for text in verdict(summary):
        console.print(visible(text), markup=False, highlight=False)
    try:
        write_whole(store.folder / "report.md", markdown(summary).encode())
        plots = write_plots(summary, store.folder)
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {store.folder}: {error.strerror}. The table above is "
            "complete; make the folder writable for its file and the plots"
        ) from error
    names = ", ".join(["report.md", *(path.name for path in plots)])
    console.print(f"{store.folder}: {names}", style="dim", markup=False, highlight=False)
    return summary
