"""Arguments and options of ``glimp check``."""

from __future__ import annotations

from typing import Annotated

import typer

from glimp_integrations.cli.options import Pair, Role

__all__ = ["check"]


def check(
    role: Annotated[
        Role,
        typer.Argument(
            help="The part each model should play: small, large, or pair for a small and a large "
            "one, whose speed is measured, too."
        ),
    ],
    models: Annotated[
        list[str] | None, typer.Argument(help="Models, e.g. openai:NAME@http://host:8000/v1.")
    ] = None,
    pair: Pair = None,
) -> None:
    """Check whether servers can be used as the small or the large model, and how fast they are."""
    from glimp_integrations.cli.check import run

    run(models or [], role.value, pair)
