"""``glimp``: the entry point. One file per command; heavy imports wait for the command."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from glimp_integrations._version import __version__
from glimp_integrations.errors import GlimpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="glimp",
    help="Two models write one chain of thought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glimp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Two models write one chain of thought."""


class Role(StrEnum):
    """What endpoints are to be: one of the two models, or both together."""

    small = "small"
    large = "large"
    pair = "pair"


Small = Annotated[str | None, typer.Option(help="Small model, e.g. openai:NAME@http://host/v1.")]
Large = Annotated[str | None, typer.Option(help="Large model, likewise.")]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads it from input.")],
    small: Small = None,
    large: Large = None,
    threshold: Annotated[float, typer.Option(help="Nats; above it the large model writes.")] = 1.0,
    strategy: Annotated[str, typer.Option(help="auto, two_request, fused or overlap.")] = "auto",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.6,
    seed: Annotated[int | None, typer.Option(help="Sampling seed.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 2048,
    trace: Annotated[str | None, typer.Option(help="Save the trace to this file (JSON).")] = None,
) -> None:
    """Answer a question; steps appear as they are written, coloured by author."""
    from glimp_integrations.cli.ask import run

    run(
        sys.stdin.read() if question == "-" else question,
        trace,
        small=small,
        large=large,
        threshold=threshold,
        strategy=strategy,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


@app.command()
def pull() -> None:
    """Fetch the embedded pair (1.6 GB, once)."""
    from glimp_integrations.cli.pull import run

    run()


@app.command()
def check(
    role: Annotated[
        Role,
        typer.Argument(help="What for; small needs log-probabilities, pair measures both."),
    ],
    models: Annotated[
        list[str], typer.Argument(help="Short forms, e.g. openai:NAME@http://host:8000/v1.")
    ],
) -> None:
    """Examine endpoints: can they continue exact text, be glimpsed at, and how fast are both?"""
    from glimp_integrations.cli.check import run

    run(models, role.value)


@app.command()
def trace(
    file: Annotated[str, typer.Argument(help="A saved trace, or JSON lines with many of them.")],
    html: Annotated[
        str | None, typer.Option(help="Write a page to this file; '-' is standard output.")
    ] = None,
    number: Annotated[int | None, typer.Option(help="Which of many traces, from 1.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="One line a step.")] = False,
) -> None:
    """Show a saved trace: who wrote which step, H, tokens, seconds, cost."""
    from glimp_integrations.cli.trace import run

    run(file, html, number, title, brief)


def main() -> None:
    """Run the command line; errors of ours are one red line, not a traceback."""
    try:
        app()
    except GlimpError as error:
        typer.secho(f"glimp: {error}", fg="red", err=True)
        raise SystemExit(1) from None
