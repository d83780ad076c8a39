"""What a command says beside its output."""

from __future__ import annotations

import typer

__all__ = ["say"]


def say(text: str) -> None:
    """Tell the user something, on the error stream."""
    typer.secho(text, fg="yellow", err=True)
