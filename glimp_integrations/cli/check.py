"""``glimp check``."""

from __future__ import annotations

import typer

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Backend
from glimp_integrations.backends.http.check import EndpointReport
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.model_strings import parse
from glimp_integrations.conversation.earlier_reasoning import PROBE, name_in
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.conversation.prompt import build
from glimp_integrations.errors import ConfigError, GlimpError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.runtime.strategy import choose

__all__ = ["run"]

_SPEEDS = {
    "token": "a token written",
    "client": "processor time of this process for it",
    "prefill": "a token read",
    "request": "a request, without its tokens",
    "release": "a cancelled stream delays the next one",
}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def run(models: list[str], role: str, pair: str | None = None) -> None:
    """Check each endpoint; the exit code is 1 if one of them cannot play its part.

    Args:
        models: Model strings.
        role: The part they should play: small, large or pair.
        pair: The name of a pair in place of models. Its models run in this process, so that only
            their speed is measured.
    """
    if pair is not None:
        if role != "pair" or models:
            raise ConfigError(
                f"--pair {pair} names both models: write `glimp check pair --pair {pair}`"
            )
        _measure(GlimpRouter(pair=pair))
        typer.secho("usable as pair", fg="green")
        return
    if not models:
        raise ConfigError(f"no model to check as {role}: name it, or for pairs give --pair NAME")
    roles = [role] * len(models)
    if role == "pair":
        if len(models) != 2:
            raise ConfigError(
                f"check pair takes the small and the large model, and got {len(models)} models"
            )
        roles = ["small", "large"]
    usable = True
    for model, part in zip(models, roles, strict=True):
        usable &= _examine(model, part, must_serve=role != "pair")
    if not usable:
        typer.secho(f"not usable as {role}{'' if role == 'pair' else ' model'}", fg="red")
        raise typer.Exit(1)
    if role == "pair":
        _measure(GlimpRouter(*models))
    typer.secho(f"usable as {role}{'' if role == 'pair' else ' model'}", fg="green")


def _examine(model: str, role: str, *, must_serve: bool) -> bool:
    """Print the report of one endpoint, and return whether it can play the part."""
    backend = parse(model)
    if not isinstance(backend, OpenAIBackend):
        if must_serve:
            raise ConfigError(f"{model!r} is not a server; check takes model strings of servers")
        return True  # a model of this process has nothing to check, but its speed is measured
    try:
        report = io_loop.call(backend.check)
        _print(report)
        if report.reached:
            typer.echo(io_loop.call(lambda: _earlier_reasoning(backend)))
    finally:
        backend.close()
    return report.usable_as_small if role == "small" else report.usable_as_large


async def _earlier_reasoning(backend: Backend) -> str:
    """Whether ``keep_reasoning`` has an effect with this model, in words."""
    try:
        prompt = await build(backend, check_messages(PROBE))
    except GlimpError as error:
        return f"earlier reasoning (keep_reasoning): {error}"
    if name_in(prompt.text) is None:
        return "earlier reasoning: not read, so keep_reasoning has no effect"
    return f"earlier reasoning: read as {backend.reasoning_name} (see keep_reasoning)"


def _measure(router: GlimpRouter) -> None:
    """Print how long tokens and requests take, and the strategy that follows from it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with router, console.status("measuring both models"):
        speed = router.measure()
        strategy, reason = io_loop.call(lambda: _chosen(router))
    table = Table(title="milliseconds, nothing else running", title_justify="left")
    for column in ("", "small", "large"):
        table.add_column(column, justify="left" if not column else "right")
    for name, text in _SPEEDS.items():
        both = (getattr(model, name) for model in (speed.small, speed.large))
        table.add_row(text, *(f"{1000 * value:.1f}" for value in both))
    table.add_row("log-probabilities of a token", f"{1000 * speed.logprobs:.2f}", "")
    console.print(table)
    console.print(f"strategy {strategy!r}: {reason}", highlight=False, markup=False)
    if not speed.apart:
        console.print(
            "Both models are on one device. Give both backends the same device=..., so that "
            "neither starts before the other has stopped.",
            highlight=False,
        )


async def _chosen(router: GlimpRouter) -> tuple[str, str]:
    """The strategy that "auto" stands for, and the reason."""
    small, large = [await model.capabilities() for model in (router.small, router.large)]
    return choose("auto", router.small, router.large, small, large, router.speed)


def _print(report: EndpointReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{report.endpoint} ({report.server})"), title_justify="left")
    for column in ("probe", "verdict", "result", "what to do"):
        table.add_column(column)
    for row in report.results:
        table.add_row(
            Text(row.probe),
            Text(row.verdict, style=_STYLES[row.verdict]),
            Text(row.detail),
            Text(row.remedy),
        )
    Console().print(table)
