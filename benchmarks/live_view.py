"""What watching costs: the same answer streamed with and without the live view, side by side.

    python -m benchmarks.live_view                    # two minutes
    python -m benchmarks.live_view --json live.json

Three measurements, on a pseudo-terminal that another process reads:

1. Events. A finished answer's events come at 30 tokens/s (the embedded small model) and at 100. The
   next one waits until the last was printed, so that no model latency hides the time of printing.
2. Whole calls of scripted models at the same rates, through the core, LangChain (custom events) and
   LlamaIndex (instrumentation): what a user waits longer.
3. The same without pauses between tokens: seconds a token.

Runs with and without the view take turns. Where it adds more than 5 % in 1 or 2, the command ends
with code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glimp_integrations import Event, GlimpRouter
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.trace.live import LivePrinter

RATES = (30, 100)
"""Tokens a second."""
LIMIT = 0.05
"""Of the time."""
_OPENED = "<assistant>\n<think>\n"


def script(tokens: int, step_tokens: int = 40) -> list[tuple[bytes, float]]:
    """A chain of so many tokens, every fourth step hard, with an answer of a few words."""
    chain: list[tuple[bytes, float]] = []
    for number in range(max(1, tokens // step_tokens)):
        chain.append((f"Step {number}".encode(), 2.0 if number % 4 == 3 else 0.2))
        chain += [(b" words", 0.1)] * (step_tokens - 2) + [(b".\n\n", 0.1)]
    return [*chain, (b"</think>", 0.1), (b"\n\n", 0.1), (b"That is it.", 0.1), (b"", 0.1)]


def pair(chain: Sequence[tuple[bytes, float]], pause: float = 0.0) -> dict[str, Any]:
    """Both models, and settings under which they write all of the chain.

    Args:
        chain: What they write.
        pause: Seconds before each token.
    """
    made = [
        ScriptedBackend(chain, name=name, generation_prompt=_OPENED, delay=pause)
        for name in ("small", "large")
    ]
    settings = {"temperature": 0, "route": "always", "max_thinking_tokens": 100_000}
    return {"small": made[0], "large": made[1], **settings}


@contextmanager
def terminal() -> Iterator[Console]:
    """A console on a pseudo-terminal; another process reads it, as a terminal is one."""
    ours, theirs = pty.openpty()
    read = "import os\nwhile os.read(0, 65536): pass"
    reader = subprocess.Popen([sys.executable, "-c", read], stdin=ours, stderr=subprocess.DEVNULL)
    os.close(ours)
    try:
        # The file closes the terminal's side; then the reader sees its end.
        with os.fdopen(theirs, "w", encoding="utf-8") as file:
            yield Console(file=file, force_terminal=True, color_system="standard", highlight=False)
    finally:
        reader.wait(10)


def paced(events: Sequence[Event], rate: float, printer: Callable[[Event], None] | None) -> float:
    """Seconds to consume the events, one every ``1 / rate`` s after the last was dealt with."""
    started = time.perf_counter()
    for event in events:
        time.sleep(1 / rate)
        if printer is not None:
            printer(event)
    return time.perf_counter() - started


def core(models: dict[str, Any], console: Console | None) -> None:
    with GlimpRouter(**models) as router:
        printer = LivePrinter(router.settings.threshold, console) if console else None
        for event in router.stream("?"):
            if printer is not None:
                printer(event)


def langchain(models: dict[str, Any], console: Console | None) -> None:
    from langchain_core.output_parsers import StrOutputParser

    from langchain_glimp import ChatGlimpRouter, StepPrinter

    llm = ChatGlimpRouter(step_events=console is not None, **models)
    config: Any = {"callbacks": [StepPrinter(llm.threshold, console)] if console else []}
    for _ in (llm | StrOutputParser()).stream("?", config=config):
        pass


def llamaindex(models: dict[str, Any], console: Console | None) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index_instrumentation import get_dispatcher

    from llamaindex_glimp import GlimpRouterLLM, StepPrinter

    llm = GlimpRouterLLM(step_events=console is not None, **models)
    handlers = get_dispatcher().event_handlers
    printers = [StepPrinter(llm.threshold, console)] if console else []
    handlers += printers
    try:
        for _ in llm.stream_chat([ChatMessage("?")]):
            pass
    finally:
        for printer in printers:
            handlers.remove(printer)


WAYS: dict[str, Callable[[dict[str, Any], Console | None], None]] = {
    "core, glimp ask": core,
    "LangChain, StepPrinter": langchain,
    "LlamaIndex, StepPrinter": llamaindex,
}


def side_by_side(
    way: str, chain: Sequence[tuple[bytes, float]], rounds: int, pause: float = 0.0
) -> tuple[float, float]:
    """What the view adds, runs with and without it in turn: seconds a token, share of the time."""
    added: list[tuple[float, float]] = []
    with terminal() as console:
        for _ in range(rounds):
            spent = []
            for view in (None, console):
                models = pair(chain, pause)
                started = time.perf_counter()
                WAYS[way](models, view)
                spent.append(time.perf_counter() - started)
            added.append(((spent[1] - spent[0]) / len(chain), spent[1] / spent[0] - 1))
    return statistics.median(a for a, _ in added), statistics.median(b for _, b in added)


def measure_paced(tokens: int, rounds: int, tick: Callable[[], None]) -> dict[int, list[float]]:
    """By rate: what the view added, as a share of the time, one figure a round."""
    with GlimpRouter(**pair(script(tokens))) as router:
        events = list(router.stream("?"))
    shares: dict[int, list[float]] = {}
    with terminal() as console:
        for rate in RATES:
            for _ in range(rounds):
                without = paced(events, rate, None)
                tick()
                shares.setdefault(rate, []).append(
                    paced(events, rate, LivePrinter(1.0, console)) / without - 1
                )
                tick()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=80, help="of the paced answer")
    parser.add_argument("--long", type=int, default=2000, help="tokens of the unpaced one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    figures: dict[str, Any] = {"events": {}, "ways": {}}
    steps = options.rounds * 2 * len(RATES) + len(WAYS) * (1 + len(RATES))
    with Progress(console=console) as progress:
        task = progress.add_task("events", total=steps)
        shares = measure_paced(options.tokens, options.rounds, lambda: progress.advance(task))
        short, long = script(options.tokens), script(options.long)
        for way in WAYS:
            progress.update(task, description=way)
            WAYS[way](pair(script(1)), None)  # imports
            row: dict[str, float] = {}
            for rate in RATES:
                row[str(rate)] = side_by_side(way, short, options.rounds, 1 / rate)[1]
                progress.advance(task)
            row["seconds_a_token"] = side_by_side(way, long, options.rounds)[0]
            progress.advance(task)
            figures["ways"][way] = row
    table = Table("", *(f"added at {rate} tokens/s" for rate in RATES), "a token, no pauses")
    row_of_events = []
    for rate in RATES:
        figures["events"][rate] = shares[rate]
        middle = statistics.median(shares[rate])
        row_of_events.append(f"{middle:.2%} ({min(shares[rate]):.2%} to {max(shares[rate]):.2%})")
    table.add_row("events, nothing hidden", *row_of_events, "")
    worst = max(statistics.median(shares[rate]) for rate in RATES)
    for way, row in figures["ways"].items():
        worst = max(worst, *(row[str(rate)] for rate in RATES))
        cells = (f"{row[str(rate)]:.2%}" for rate in RATES)
        table.add_row(way, *cells, f"{1e6 * row['seconds_a_token']:.0f} µs")
    console.print(table)
    kept = worst <= LIMIT
    console.print(f"worst {worst:.2%}, limit {LIMIT:.0%}: {'kept' if kept else 'NOT KEPT'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
