"""Arguments and options of ``glimp pull``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["pull"]


def pull(
    pair: Annotated[
        str | None,
        typer.Argument(
            help="Name of the pair; by default the one of GLIMP_PAIR, else the bundled models "
            "(1.6 GB)."
        ),
    ] = None,
    list: Annotated[
        bool, typer.Option("--list", help="Download nothing; show all pairs and what they take.")
    ] = False,
) -> None:
    """Download a pair of models once, or list the pairs."""
    from glimp_integrations.cli import pull as command

    if list:
        command.list_pairs()
    else:
        command.run(pair)
