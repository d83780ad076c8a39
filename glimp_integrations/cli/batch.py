"""``glimp batch``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from glimp_integrations.batch import BatchPlan, Totals, run
from glimp_integrations.batch.progress import Bar
from glimp_integrations.cli.saying import say
from glimp_integrations.settings import RoutingSettings

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["start"]


def start(routing: dict[str, Any], prices: str | None, **fields: Any) -> None:
    """Answer a file of requests, or go on with it, and say what came of it.

    Args:
        routing: Routing settings; ``None``: not given.
        prices: Of both models; see :func:`~glimp_integrations.bench.summary.parse_prices`.
        **fields: Other fields of the plan.

    Raises:
        Exit: Some requests failed (1), or it was stopped by Ctrl-C (130) or SIGTERM (143).
        GlimpError: It cannot be done.
    """
    given = {name: value for name, value in routing.items() if value is not None}
    if prices is not None:
        from glimp_integrations.bench.summary import parse_prices

        given["prices"] = parse_prices(prices)
    plan = BatchPlan(settings=RoutingSettings(**given), **fields)
    totals = Totals(0)
    stopped = 0
    try:
        with Bar() as bar:
            run(plan, observer=bar, totals=totals)
    except KeyboardInterrupt:
        stopped = 130
    except asyncio.CancelledError:
        stopped = 143
    finally:
        if totals.requests:
            _show(totals)
    if stopped:
        say(f"stopped; every finished answer is in {plan.results}. The same command goes on.")
        raise typer.Exit(stopped)
    if totals.failed:
        say(f"{totals.failed:,} requests failed; with --retry-failed they are asked again.")
        raise typer.Exit(1)


def _show(totals: Totals) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"{totals.requests:,} requests: {totals.done:,} answered, {totals.failed:,} failed, "
        f"{totals.left:,} left"
    )
    if not totals.done + totals.failed:
        return
    console.print(_table(totals))
    cost = "" if totals.cost is None else f"; cost {totals.cost:.6g}"
    console.print(f"the large model wrote {totals.large_share:.1%} of the kept tokens{cost}")


def _table(totals: Totals) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("tokens")
    for name in ("kept", "input", "of it cached", "output"):
        table.add_column(name, justify="right")
    for model, of in (("small", totals.small), ("large", totals.large)):
        table.add_row(model, *(f"{n:,}" for n in (of.kept, of.input, of.cached, of.output)))
    return table
