"""The command line of benchmarks whose arms answer in turns, round after round."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.lab.descriptors import enough

__all__ = ["medians", "options_of", "show"]

Row = dict[str, Any]
Measure = Callable[[str, int, argparse.Namespace, Callable[[], None]], Coroutine[Any, Any, Row]]


def options_of(
    doc: str | None, settings: Mapping[str, Any], at_once: list[int]
) -> argparse.ArgumentParser:
    """The parser of the options that all of them have; its own are added by a benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, nargs="+", default=at_once)
    parser.add_argument("--settings", nargs="+", choices=list(settings), default=list(settings))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--answer-tokens", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


def medians(turns: Mapping[str, Sequence[Any]], *names: str) -> dict[str, dict[str, float]]:
    """The medians of these figures of each arm's turns."""
    return {
        arm: {name: statistics.median(getattr(one, name) for one in own) for name in names}
        for arm, own in turns.items()
    }


def show(
    parser: argparse.ArgumentParser,
    measure: Measure,
    table: Callable[[list[Row]], Table],
    *,
    width: int,
) -> None:
    """Measure a row for every setting and number of conversations, and print them.

    Args:
        parser: From :func:`options_of`.
        measure: From a setting, a number of conversations, the options, and what is called after
            every round, to a row.
        table: From the rows.
        width: Columns of the terminal that the table takes.
    """
    options = parser.parse_args()
    if min(options.rounds, options.steps, options.answer_tokens, *options.at_once) < 1:
        parser.error("rounds, steps, tokens and conversations are whole numbers above 0")
    enough(max(options.at_once))
    todo = [(setting, number) for setting in options.settings for number in options.at_once]
    rows = []
    console = Console(width=width)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(todo) * options.rounds)
        for setting, number in todo:
            done = partial(progress.advance, task)
            rows.append(asyncio.run(measure(setting, number, options, done)))
    console.print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
