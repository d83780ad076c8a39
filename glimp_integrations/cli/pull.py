"""``glimp pull``."""

from __future__ import annotations

import typer

from glimp_integrations.weights import ensure
from glimp_integrations.weights.catalog import PAIR

__all__ = ["run"]


def run() -> None:
    """Download both files, and print where they are."""
    for file in PAIR:
        typer.echo(f"{file.model}: {ensure(file)}")
