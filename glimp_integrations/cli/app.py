"""``glimp``: the entry point.

What can be typed is in :mod:`glimp_integrations.cli.commands`, one file per command; the file of
the same name beside this one does it. Heavy imports wait for the command.
"""

from __future__ import annotations

from typing import Annotated

import typer

from glimp_integrations._version import __version__
from glimp_integrations.cli.commands.ask import ask
from glimp_integrations.cli.commands.batch import batch
from glimp_integrations.cli.commands.bench import bench
from glimp_integrations.cli.commands.calibrate import calibrate
from glimp_integrations.cli.commands.check import check
from glimp_integrations.cli.commands.pull import pull
from glimp_integrations.cli.commands.serve import serve
from glimp_integrations.cli.commands.trace import trace
from glimp_integrations.errors import GlimpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="glimp",
    help="Route every reasoning step to a small or a large language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"glimp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Route every reasoning step to a small or a large language model."""


# In this order `glimp --help` lists them.
for _command in (ask, pull, check, calibrate, bench, serve, batch, trace):
    app.command()(_command)


def main() -> None:
    """Run the command line. Errors of this package become one red line, without a traceback."""
    try:
        app()
    except GlimpError as error:
        typer.secho(f"glimp: {error}", fg="red", err=True)
        raise SystemExit(1) from None
