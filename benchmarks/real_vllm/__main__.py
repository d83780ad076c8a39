"""The command line: install, convert, serve, prove."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.real_vllm import environment, models, routing, server, wire
from benchmarks.real_vllm.bench import Bench, Proof, Result, timed
from glimp_integrations.errors import GlimpError

app = typer.Typer(
    help="The real vLLM, installed, started and routed against.",
    no_args_is_help=True,
    add_completion=False,
)
console = Console(width=130 if not sys.stdout.isatty() else None)


class Size(StrEnum):
    """Which model of the pair."""

    small = "small"
    large = "large"


class Dtype(StrEnum):
    """What vLLM computes in."""

    bfloat16 = "bfloat16"
    float32 = "float32"


@app.command()
def install() -> None:
    """Make the virtual environment with vLLM, once."""
    with _told():
        console.print(f"vLLM is in {environment.install(console)}")


@app.command()
def convert(
    model: Annotated[list[Size] | None, typer.Option(help="Default: both.")] = None,
) -> None:
    """Convert the bundled models' weights, once, and compare tokenizers with llama.cpp."""
    with _told():
        for size in model or list(Size):
            console.print(f"converting {models.FILES[size].model}")
            done = models.convert(size)  # transformers and downloads draw their own bars
            how = (
                f"converted in {done.seconds:.0f} s, at most {done.peak_bytes / 1e9:.1f} GB"
                if done.seconds
                else "was there"
            )
            console.print(f"{done.path} {how}")
            with console.status("comparing tokenizer and chat template with llama.cpp"):
                differences = models.differences(size)
            for line in differences:
                console.print(Text(line, style="red"))
            if differences:
                raise typer.Exit(1)
            console.print("tokenizer and chat template are those of llama.cpp")


@app.command()
def serve(
    model: Annotated[Size, typer.Option(help="Which model of the pair.")] = Size.small,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    dtype: Annotated[Dtype, typer.Option(help="What it computes in.")] = Dtype.bfloat16,
    window: Annotated[int, typer.Option(min=64, max=32768, help="Context, in tokens.")] = 4096,
) -> None:
    """Serve one model until Ctrl-C."""
    with (
        _told(),
        server.serving(model, console=console, port=port, dtype=dtype, window=window) as running,
    ):
        console.print(f"{running.memory / 1e9:.1f} GB; log: {running.log}; Ctrl-C stops it")
        running.process.wait()
        console.print(f"the server ended by itself; see {running.log}")
        raise typer.Exit(1)


@app.command()
def prove(
    only: Annotated[list[str] | None, typer.Option(help="Names of proofs.")] = None,
    bfloat16: Annotated[bool, typer.Option(help="Everything in bfloat16.")] = True,
    float32: Annotated[bool, typer.Option(help="Routing once more in float32.")] = True,
    large: Annotated[bool, typer.Option(help="Also route with both models on vLLM.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
) -> None:
    """Run the proofs against the real server."""
    names = {p.__name__: p for p in (*wire.PROOFS, *routing.PROOFS)}
    if unknown := set(only or ()) - set(names):
        raise typer.BadParameter(f"no proof {sorted(unknown)}; there are {', '.join(names)}")
    rounds: list[tuple[Dtype, bool, list[Proof]]] = []
    if bfloat16:
        rounds.append((Dtype.bfloat16, False, list(names.values())))
    if float32:
        rounds.append((Dtype.float32, False, list(routing.PROOFS)))
    if large:
        rounds.append((Dtype.bfloat16, True, [routing.strategies]))
    results: list[Result] = []
    servers: list[dict[str, Any]] = []
    with _told():
        for dtype, both, proofs in rounds:
            chosen = [p for p in proofs if not only or p.__name__ in only]
            if chosen:
                results += _round(dtype, both, chosen, servers)
    console.print(_table(results))
    console.print(f"vLLM {environment.VERSION}; {_machine()}")
    if json_file is not None:
        record = {
            "vllm": environment.VERSION,
            "machine": _machine(),
            "servers": servers,
            "results": [result.as_dict() for result in results],
        }
        json_file.write_text(json.dumps(record, indent=1, ensure_ascii=False))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _round(
    dtype: Dtype, both: bool, proofs: list[Proof], servers: list[dict[str, Any]]
) -> Iterator[Result]:
    with ExitStack() as stack:
        started = [
            stack.enter_context(server.serving(size, console=console, dtype=dtype))
            for size in ([Size.small, Size.large] if both else [Size.small])
        ]
        bench = Bench(*started)
        stack.callback(bench.close)
        for proof in proofs:
            with console.status(f"{proof.__name__}: {proof.__doc__}"):
                result = timed(proof, bench)
            console.print(_line(result))
            yield result
        servers += [
            {
                "model": s.model,
                "dtype": s.dtype,
                "ready_seconds": s.ready_seconds,
                "memory_bytes": s.memory,
            }
            for s in started
        ]


def _line(result: Result) -> Text:
    mark = ("ok   ", "green") if result.ok else ("FAIL ", "bold red")
    return Text.assemble(mark, f"{result.name} ({result.seconds:.1f} s)")


def _table(results: list[Result]) -> Table:
    table = Table(title="the real vLLM", title_justify="left", show_lines=True)
    for column in ("proof", "", "seen", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for result in results:
        mark = Text("ok", style="green") if result.ok else Text("FAIL", style="bold red")
        table.add_row(Text(result.name), mark, Text(result.summary), f"{result.seconds:.1f}")
    return table


def _machine() -> str:
    return f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}, shared"


@contextmanager
def _told() -> Iterator[None]:
    """Failures as one line; a terminated program stops its servers as Ctrl-C does."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except GlimpError as error:
        console.print(Text(str(error), style="red"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
