"""``glimp check``."""

from __future__ import annotations

import typer

from glimp_integrations import bridge
from glimp_integrations.backends.openai import OpenAIBackend
from glimp_integrations.backends.probes import EndpointReport
from glimp_integrations.errors import ConfigError
from glimp_integrations.pair import parse

__all__ = ["run"]

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def run(models: list[str], role: str) -> None:
    """Examine each endpoint; exit code 1 if one cannot fill the role."""
    usable = True
    for form in models:
        backend = parse(form)
        if not isinstance(backend, OpenAIBackend):
            raise ConfigError(f"{form!r} is no endpoint; check takes forms of servers")
        try:
            report = bridge.call(backend.check)
        finally:
            backend.close()
        _print(report)
        usable &= report.usable_as_small if role == "small" else report.usable_as_large
    if not usable:
        typer.secho(f"not usable as {role} model", fg="red")
        raise typer.Exit(1)
    typer.secho(f"usable as {role} model", fg="green")


def _print(report: EndpointReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{report.server} ({report.flavour})"), title_justify="left")
    for column in ("probe", "verdict", "found", "what to do"):
        table.add_column(column)
    for row in report.results:
        table.add_row(
            Text(row.probe),
            Text(row.verdict, style=_STYLES[row.verdict]),
            Text(row.detail),
            Text(row.remedy),
        )
    Console().print(table)
