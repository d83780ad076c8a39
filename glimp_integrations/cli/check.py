"""``glimp check``."""

from __future__ import annotations

import typer

from glimp_integrations import io_loop
from glimp_integrations.backends.http.check import EndpointReport
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.model_strings import parse
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.runtime.strategy import choose

__all__ = ["run"]

_SPEEDS = {
    "token": "a token written",
    "prefill": "a token read",
    "request": "a request besides",
    "release": "a cancelled stream holds the next up",
}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def run(models: list[str], role: str) -> None:
    """Examine each endpoint; exit code 1 if one cannot fill the role."""
    roles = [role] * len(models)
    if role == "pair":
        if len(models) != 2:
            raise ConfigError(
                f"check pair takes the small and the large model, and got {len(models)} forms"
            )
        roles = ["small", "large"]
    usable = True
    for form, wanted in zip(models, roles, strict=True):
        usable &= _examine(form, wanted, must_serve=role != "pair")
    if not usable:
        typer.secho(f"not usable as {role}{'' if role == 'pair' else ' model'}", fg="red")
        raise typer.Exit(1)
    if role == "pair":
        _measure(*models)
    typer.secho(f"usable as {role}{'' if role == 'pair' else ' model'}", fg="green")


def _examine(form: str, role: str, *, must_serve: bool) -> bool:
    """Print the report of one endpoint; whether it can fill the role."""
    backend = parse(form)
    if not isinstance(backend, OpenAIBackend):
        if must_serve:
            raise ConfigError(f"{form!r} is no endpoint; check takes forms of servers")
        return True  # a model of this process has nothing to examine, but a speed
    try:
        report = io_loop.call(backend.check)
    finally:
        backend.close()
    _print(report)
    return report.usable_as_small if role == "small" else report.usable_as_large


def _measure(small: str, large: str) -> None:
    """Print what tokens and requests take, and the strategy that follows."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with GlimpRouter(small, large) as router, console.status("measuring both models"):
        speed = router.measure()
        strategy, reason = io_loop.call(lambda: _chosen(router))
    table = Table(title="milliseconds, nothing else running", title_justify="left")
    for column in ("", "small", "large"):
        table.add_column(column, justify="left" if not column else "right")
    for name, text in _SPEEDS.items():
        both = (getattr(model, name) for model in (speed.small, speed.large))
        table.add_row(text, *(f"{1000 * value:.1f}" for value in both))
    table.add_row("log-probabilities, a token", f"{1000 * speed.logprobs:.2f}", "")
    console.print(table)
    console.print(f"strategy {strategy!r}: {reason}", highlight=False, markup=False)
    if not speed.apart:
        console.print(
            "One device: name it on both backends (device=...), so that neither starts "
            "before the other has left it.",
            highlight=False,
        )


async def _chosen(router: GlimpRouter) -> tuple[str, str]:
    """What strategy "auto" comes to, and why."""
    can = [await model.capabilities() for model in (router.small, router.large)]
    return choose("auto", router.small, router.large, can[0], can[1], router.speed)


def _print(report: EndpointReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{report.endpoint} ({report.server})"), title_justify="left")
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
