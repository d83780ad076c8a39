"""``glimp trace``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.files import Saved, load, parse, write
from glimp_integrations.trace.step_lines import COLOURS, visible
from glimp_integrations.trace.terminal import print_trace
from glimp_integrations.trace.trace import Trace

__all__ = ["run"]


def run(file: str, html: str | None, number: int | None, title: str | None, brief: bool) -> None:
    """Show a saved trace in the terminal, or write it as a page.

    Args:
        file: One trace or several; see :mod:`glimp_integrations.trace.files`.
        html: The file for the page; ``"-"`` is standard output. ``None``: the terminal.
        number: The number of the trace in a file with several, from 1.
        title: The heading of the page. ``None``: the name of the trace's record, or of the file.
        brief: Whether each step is one line.

    Raises:
        ConfigError: The file has no such trace, or a file cannot be read or written.
    """
    with _no_collections():
        _run(file, html, number, title, brief)


def _run(file: str, html: str | None, number: int | None, title: str | None, brief: bool) -> None:
    traces, remarks = load(file)
    for remark in remarks[:1]:
        more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
        Console(stderr=True, highlight=False).print(Text(f"left out: {remark}{more}", "yellow"))
    if number is None and len(traces) > 1:
        if html is not None:
            raise ConfigError(
                f"{file} holds {len(traces)} traces: say which one with --number 1 to {len(traces)}"
            )
        _list(traces, file)
        return
    chosen = _chosen(traces, 1 if number is None else number, file)
    trace = parse(chosen.trace, Trace, chosen.place)
    if html is None:
        print_trace(trace, Console(highlight=False), brief=brief)
        return
    page = trace.to_html(title or chosen.name or Path(file).stem)
    if html == "-":
        # As bytes, because the terminal's encoding may lack some characters of the reasoning.
        sys.stdout.buffer.write(page.encode())
        sys.stdout.buffer.flush()
        return
    write(html, page, "the page")
    Console(stderr=True, highlight=False).print(Text(f"wrote {html}"))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without Python's search for cycles of objects, which takes a second for 100,000 steps.

    It would look again and again through objects that all stay to the end.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _chosen(traces: list[Saved], number: int, file: str) -> Saved:
    if not 1 <= number <= len(traces):
        some = "1 trace" if len(traces) == 1 else f"{len(traces)} traces"
        raise ConfigError(f"--number is {number}, but {file} holds {some}")
    return traces[number - 1]


def _list(traces: list[Saved], file: str) -> None:
    """Print one line for each trace; one that cannot be read gets the reason instead."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("number", "steps", "tokens", "large share", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of", overflow="ellipsis", no_wrap=True)
    for number, saved in enumerate(traces, 1):
        name = Text(visible(saved.name or saved.place))
        try:
            trace = parse(saved.trace, Trace, saved.place)
        except ConfigError as error:
            table.add_row(str(number), "", "", "", "", Text(visible(str(error)), "yellow"))
            continue
        table.add_row(
            str(number),
            str(len(trace.steps)),
            f"{sum(step.tokens for step in trace.steps):,}",
            Text(f"{trace.large_share:.0%}", COLOURS["large"]),
            f"{trace.seconds:.1f}",
            name,
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"\n{len(traces)} traces: glimp trace {file} --number N shows one", "dim"))
