"""The report of a bench: a table, a verdict in plain words, the plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimp_integrations.bench.store import Store
from glimp_integrations.bench.summary import ArmFigures, Summary, summarise
from glimp_integrations.settings import Prices

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["COLUMNS", "rows", "write_report"]

COLUMNS = (
    "arm", "right", "accuracy", "95 %", "s/item", "rho", "tokens small", "tokens large",
    "large share", "large steps", "discarded", "requests", "unmarked", "cached", "errors", "cost",
)  # fmt: skip


def rows(summary: Summary) -> list[list[str]]:
    """The table's cells, one row an arm; columns as in :data:`COLUMNS`."""
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
        f"{arm.seconds:.1f}" if arm.n else "",
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


def _table(summary: Summary) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(str(summary.manifest.get("task"))), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in rows(summary):
        table.add_row(*(Text(cell) for cell in row))
    return table


def write_report(store: Store, prices: Prices | None, console: Console) -> Summary:
    """Print and write the report of a folder."""
    summary = summarise(store, prices)
    console.print(_table(summary))
    return summary
