"""Arguments and options of ``glimp trace``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace"]


def trace(
    file: Annotated[
        str, typer.Argument(help="A saved trace, or a JSON lines file with several traces.")
    ],
    html: Annotated[
        str | None,
        typer.Option(help="Write an HTML page to this file; '-' is standard output."),
    ] = None,
    number: Annotated[
        int | None, typer.Option(help="Number of the trace in a file with several, from 1.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the HTML page.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Show one line for each step.")] = False,
) -> None:
    """Show a saved trace: each step with its author, entropy, tokens and seconds."""
    from glimp_integrations.cli.trace import run

    run(file, html, number, title, brief)
