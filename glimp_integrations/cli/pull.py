"""``glimp pull``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from glimp_integrations.cli.saying import say
from glimp_integrations.settings import PAIR_VARIABLE
from glimp_integrations.weights import ensure, pairs
from glimp_integrations.weights.download import bytes_there, check_room_for
from glimp_integrations.weights.memory import free_memory

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["list_pairs", "run"]


def run(name: str | None = None) -> None:
    """Download both files of a pair, and print where they are.

    Args:
        name: The pair; ``None``: the one that the environment names, else the bundled one.

    Raises:
        ConfigError: There is no such pair, or no room for it.
        BackendError: It could not be fetched.
    """
    named_by = PAIR_VARIABLE if name is None else "PAIR"
    pair = pairs.find_pair(name or os.environ.get(PAIR_VARIABLE) or pairs.BUNDLED.name, named_by)
    free = free_memory()
    if free is not None and free < pair.memory:
        say(f"{pair.name} takes {pair.memory:,} bytes of memory, and here {free:,} are free now")
    check_room_for(model.file for model in pair.models)
    for model in pair.models:
        typer.echo(f"{model.file.model}: {ensure(model.file, command=pair.pull_command)}")
    if pair is not pairs.BUNDLED:
        say(f'use it: pair="{pair.name}", --pair {pair.name}, or {PAIR_VARIABLE}={pair.name}')


def list_pairs() -> None:
    """Print all pairs: what they are, what they take, and whether they are here."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table())
    free = free_memory()
    if free is not None:
        console.print(f"{_gb(free)} of memory are free here.")
    if unseen := [pair.name for pair in pairs.PAIRS.values() if not pair.verified]:
        console.print(
            f"The SHA-256 of the files of {', '.join(unseen)} were found in public places, and not "
            "computed by this project. Every download is checked against them.",
            style="dim",
            markup=False,
        )


def _table() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, leading=1, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("pair")
    table.add_column("small and large model", overflow="fold")
    for column in ("download", "memory", "here"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in pairs.PAIRS.values():
        licences = dict.fromkeys(model.licence for model in pair.models)
        tags = "think tags" if pair.think_tags else "no think tags"
        context = min(model.context for model in pair.models)
        table.add_row(
            f"[bold]{pair.name}[/]\n[dim]{', '.join(licences)}\n{tags}[/]",
            "\n".join(model.file.name for model in pair.models)
            + f"\n[dim]{pair.context_window:,} of {context:,} tokens[/]",
            _gb(pair.size),
            _gb(pair.memory),
            _fetched(pair),
        )
    return table


def _fetched(pair: pairs.ModelPair) -> str:
    share = sum(bytes_there(model.file) for model in pair.models) / pair.size
    # Rounded down: all but a few bytes are not all.
    return {0.0: "no", 1.0: "yes"}.get(share, f"{int(100 * share)} %")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
