"""Many conversations at once, on scripted servers that batch.

    python -m benchmarks.lab.crowd --json crowd.json --png crowd.png
    python -m benchmarks.lab.crowd --at-once 1 16 --arms abatch aiohttp
    python -m benchmarks.lab.crowd --at-once 16 64 --arms core core-uvloop serve aiohttp
    python -m benchmarks.lab.crowd --read crowd.json --png crowd.png    # draw again

Routed conversations against the servers' own throughput: the same number of tokens, streamed from
the small and then from the large server by a client that routes nothing. Servers and client are
processes of their own, and the CPU time of each is reported: servers in Python are a limit, too.
In the arms named ``serve`` the models' client is a ``glimp serve`` in a process of its own, and
what the bare client in front of it takes is shown apart ("counting").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.lab.crowd_arms import ARMS, BY_DEFAULT
from benchmarks.lab.crowd_cells import Cell, Work, against_aiohttp
from benchmarks.lab.crowd_measure import cpu_of, measure
from benchmarks.lab.descriptors import enough
from benchmarks.lab.run import SETTINGS, free_port, ideal, wait_for
from benchmarks.lab.script import Script, made_up
from benchmarks.lab.server import Costs, LabServer, serve

_READY_SECONDS = 120.0
_SLOWEST = 50.0  # tokens a second; a run that is slower than that is given up


@contextmanager
def _servers(setting: str, scripts: list[Script]) -> Iterator[list[tuple[str, psutil.Process]]]:
    """Each server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    costs = SETTINGS[setting]
    running = []
    try:
        for name, cost in (("small", costs.small), ("large", costs.large)):
            port = free_port()
            process = context.Process(
                target=_serve_one, args=(name, scripts, cost, port), daemon=True
            )
            process.start()
            running.append((port, process))
        for port, _ in running:
            wait_for(port)
        yield [(f"http://127.0.0.1:{port}/v1", psutil.Process(p.pid)) for port, p in running]
    finally:
        for _, process in running:
            process.terminate()
            process.join()


def _serve_one(name: str, scripts: list[Script], costs: Costs, port: int) -> None:
    asyncio.run(serve([LabServer(name, scripts, costs)], [port]))


def _cell(arm: str, at_once: int, options: argparse.Namespace, scripts: list[Script]) -> Cell:
    context = multiprocessing.get_context("spawn")
    with _servers(options.setting, scripts) as both:
        urls = [url for url, _ in both]
        here, there = context.Pipe()
        work = Work(arm, at_once, urls[0], urls[1], options.strategy, scripts)
        client = context.Process(target=measure, args=(work, there), daemon=True)
        client.start()
        try:
            _hear(here, client)
            before = [(_counts(url), cpu_of(process)) for url, process in both]
            here.send("go")
            tokens = sum(len(script.tokens) for script in scripts[1 : at_once + 1])
            figures = _hear(here, client, _READY_SECONDS + tokens / _SLOWEST)
            after = [(_counts(url), cpu_of(process)) for url, process in both]
        finally:
            client.terminate()
            client.join()

    def grown(name: str) -> tuple[int, int]:
        small, large = (a[name] - b[name] for (a, _), (b, _) in zip(after, before, strict=True))
        return small, large

    cpu = [a - b for (_, a), (_, b) in zip(after, before, strict=True)]
    return Cell(
        arm,
        at_once,
        server_cpu=(cpu[0], cpu[1]),
        connections=grown("connections"),
        requests=grown("requests"),
        **figures,
    )


def _hear(connection: Connection, client: Any, seconds: float = _READY_SECONDS) -> Any:
    """The next message of the client; its failure is raised here."""
    give_up = time.monotonic() + seconds
    while not connection.poll(0.1):
        if not client.is_alive() or time.monotonic() > give_up:
            raise RuntimeError(
                f"the measured process ended, or sent nothing for {seconds:.0f} seconds"
            )
    message = connection.recv()
    if isinstance(message, str) and message != "ready":
        raise RuntimeError(message)
    return message


def _counts(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/counts", timeout=30) as answer:  # noqa: S310 - loopback
        return dict(json.load(answer))


def _scripts(options: argparse.Namespace) -> list[Script]:
    """A short one to warm up, and one for each conversation."""
    return [
        made_up(0, steps=1, step_tokens=4, large_share=0, answer_tokens=1),
        *(
            made_up(
                seed,
                steps=options.steps,
                step_tokens=options.step_tokens,
                large_share=options.large_share,
                answer_tokens=options.answer_tokens,
            )
            for seed in range(1, max(options.at_once) + 1)
        ),
    ]


def _table(cells: list[Cell], title: str) -> Table:
    shown = Table(
        "at once",
        Column("arm", no_wrap=True),
        "tokens/s",
        "x one",
        "x aiohttp",
        "p50 s",
        "p95 s",
        "CPU s / 1k\ntokens",
        "CPU\nx aiohttp",
        "client\nCPU %",
        "counting\nCPU %",
        "small\nCPU %",
        "large\nCPU %",
        "opened\nsmall, large",
        "requests\nsmall, large",
        "memory\n+MB",
        title=title,
    )
    by_place = {(cell.arm, cell.at_once): cell for cell in cells}
    ratios = {(ratio["arm"], ratio["at_once"]): ratio for ratio in against_aiohttp(cells)}
    for number in sorted({cell.at_once for cell in cells}):
        for cell in (c for c in cells if c.at_once == number):
            one, ratio = by_place.get((cell.arm, 1)), ratios.get((cell.arm, number))
            counting = cell.counting_cpu
            shares = [f"{100 * cpu / cell.seconds:.0f}" for cpu in cell.server_cpu]
            shown.add_row(
                str(number),
                cell.arm,
                f"{cell.rate:,.0f}",
                f"{cell.rate / one.rate:.1f}" if one else "",
                f"{ratio['rate']:.2f}" if ratio else "",
                f"{cell.p50:.1f}",
                f"{cell.p95:.1f}",
                f"{cell.cpu_per_1000:.2f}",
                f"{ratio['cpu']:.2f}" if ratio else "",
                f"{100 * cell.client_cpu / cell.seconds:.0f}",
                "" if counting is None else f"{100 * counting / cell.seconds:.0f}",
                *shares,
                ", ".join(map(str, cell.connections)),
                ", ".join(map(str, cell.requests)),
                f"{cell.memory / 1e6:.1f}",
            )
        shown.add_section()
    return shown


def _run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    enough(max(options.at_once))
    scripts = _scripts(options)
    todo = [(number, arm) for number in sorted(options.at_once) for arm in options.arms]
    cells = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for number, arm in todo:
            progress.update(task, description=f"{number} at once: {arm}")
            cells.append(_cell(arm, number, options, scripts))
            progress.advance(task)
    bounds = [ideal(script, SETTINGS[options.setting]) for script in scripts[1:]]
    return {
        "machine": {
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
        },
        "setting": options.setting,
        "strategy": options.strategy,
        "conversation": {
            name: getattr(options, name)
            for name in ("steps", "step_tokens", "large_share", "answer_tokens")
        },
        "ideal_seconds": statistics.mean(bounds),
        "cells": [asdict(cell) for cell in cells],
        "against_aiohttp": against_aiohttp(cells),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at-once", nargs="+", type=_positive, default=[1, 4, 16, 64])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(BY_DEFAULT))
    parser.add_argument("--setting", choices=list(SETTINGS), default="a100")
    parser.add_argument("--strategy", default="auto", help="of the routed arms (default: auto)")
    parser.add_argument("--steps", type=_positive, default=10)
    parser.add_argument("--step-tokens", type=_positive, default=24)
    parser.add_argument("--answer-tokens", type=_positive, default=40)
    parser.add_argument("--large-share", type=float, default=0.25)
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--png", type=Path, help="draw them (needs matplotlib)")
    parser.add_argument("--read", type=Path, help="show these figures instead of measuring")
    options = parser.parse_args()
    if options.png:
        from benchmarks.lab.crowd_plot import check

        check()  # before minutes of measuring, not after
    console = Console(width=170)
    if options.read:
        figures = json.loads(options.read.read_text(encoding="utf-8"))
    else:
        figures = _run(options, console)
    title = (
        f"{figures['setting']}, strategy {figures['strategy']}: a conversation alone is "
        f"{figures['ideal_seconds']:.1f} s of pure model time, on average"
    )
    console.print(_table([Cell(**cell) for cell in figures["cells"]], title))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.png:
        from benchmarks.lab.crowd_plot import draw

        draw(figures, [Cell(**cell) for cell in figures["cells"]], options.png)
        console.print(f"drawn: {options.png}")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
