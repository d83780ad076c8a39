"""What watching costs: the same answer streamed with and without the live view, side by side.

    python -m benchmarks.live_view                    # half a minute
    python -m benchmarks.live_view --json live.json

Two measurements, both on a pseudo-terminal that is read as a terminal reads:

1. Paced. A finished answer's events come at 30 tokens/s (the embedded small model) and at 100. The
   next one waits until the last was printed, so that printing hides behind nothing. Runs with and
   without printer take turns.
2. As fast as it goes. Scripted models that take no time, through the core, LangChain (custom
   events) and LlamaIndex (instrumentation). The difference by tokens is the price of a token.

The price is at most 5 % of the time between two tokens, or the command ends with code 1.
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
from glimp_integrations.live import LivePrinter

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


def pair(chain: Sequence[tuple[bytes, float]]) -> dict[str, Any]:
    """Both models, and settings under which they write all of the chain."""
    made = [ScriptedBackend(chain, name=n, generation_prompt=_OPENED) for n in ("small", "large")]
    return {"small": made[0], "large": made[1], "temperature": 0, "max_thinking_tokens": 100_000}


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


def core(chain: Sequence[tuple[bytes, float]], console: Console | None) -> None:
    with GlimpRouter(**pair(chain)) as router:
        printer = LivePrinter(router.settings.threshold, console) if console else None
        for event in router.stream("?"):
            if printer is not None:
                printer(event)


def langchain(chain: Sequence[tuple[bytes, float]], console: Console | None) -> None:
    from langchain_core.output_parsers import StrOutputParser

    from langchain_glimp import ChatGlimpRouter, StepPrinter

    llm = ChatGlimpRouter(step_events=console is not None, **pair(chain))
    callbacks = [StepPrinter(llm.threshold, console)] if console else []
    for _ in (llm | StrOutputParser()).stream("?", config={"callbacks": callbacks}):
        pass


def llamaindex(chain: Sequence[tuple[bytes, float]], console: Console | None) -> None:
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.llms import ChatMessage

    from llamaindex_glimp import GlimpRouterLLM, StepPrinter

    llm = GlimpRouterLLM(step_events=console is not None, **pair(chain))
    handlers = get_dispatcher().event_handlers
    printers = [StepPrinter(llm.threshold, console)] if console else []
    handlers += printers
    try:
        for _ in llm.stream_chat([ChatMessage("?")]):
            pass
    finally:
        for printer in printers:
            handlers.remove(printer)


WAYS: dict[str, Callable[[Sequence[tuple[bytes, float]], Console | None], None]] = {
    "core, glimp ask": core, "LangChain, StepPrinter": langchain,
    "LlamaIndex, StepPrinter": llamaindex,
}  # fmt: skip


def price(way: str, chain: Sequence[tuple[bytes, float]], rounds: int) -> float:
    """Seconds a token that the live view adds; runs with and without it take turns."""
    added: list[float] = []
    with terminal() as console:
        for _ in range(rounds):
            spent = []
            for view in (None, console):
                started = time.perf_counter()
                WAYS[way](chain, view)
                spent.append(time.perf_counter() - started)
            added.append((spent[1] - spent[0]) / len(chain))
    return statistics.median(added)


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
    figures: dict[str, Any] = {"paced": {}, "price_us": {}}
    worst = 0.0
    with Progress(console=console) as progress:
        task = progress.add_task("paced", total=options.rounds * 2 * len(RATES) + len(WAYS))
        shares = measure_paced(options.tokens, options.rounds, lambda: progress.advance(task))
        long = script(options.long)
        prices: dict[str, float] = {}
        for way in WAYS:
            progress.update(task, description=way)
            WAYS[way](long[-45:], None)  # imports
            prices[way] = price(way, long, options.rounds)
            progress.advance(task)
    table = Table("", *(f"of the time at {rate} tokens/s" for rate in RATES), "a token")
    row = []
    for rate in RATES:
        figures["paced"][rate] = shares[rate]
        middle = statistics.median(shares[rate])
        worst = max(worst, middle)
        row.append(f"{middle:.2%} ({min(shares[rate]):.2%} to {max(shares[rate]):.2%})")
    table.add_row("paced, side by side", *row, "")
    for way, seconds in prices.items():
        figures["price_us"][way] = 1e6 * seconds
        worst = max(worst, seconds * max(RATES))
        table.add_row(way, *(f"{seconds * r:.2%}" for r in RATES), f"{1e6 * seconds:.0f} µs")
    console.print(table)
    kept = worst <= LIMIT
    console.print(f"worst {worst:.2%}, limit {LIMIT:.0%}: {'kept' if kept else 'NOT KEPT'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
