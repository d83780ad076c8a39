"""What one runaway reply costs the other calls: all share one thread for their I/O.

    python -m benchmarks.stalls                              # 4,000 pieces of 16 blanks
    python -m benchmarks.stalls --pieces 2000 4000 --text "<" --json figures.json

A scripted large model with a tool bound writes the same piece again and again, as fast as a server
whose pieces lie in one packet, while another call streams an answer of its own, a token every two
milliseconds. Told are the time of the first, and of the other the time it took and the longest it
waited for its next token. "alone" is the other call with nothing beside it. Scripted models cost
next to nothing themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glimp_integrations import GlimpRouter, OutputSpec
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.backends.base import Report, Request, Token

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_OPENED = "<assistant>\n<think>\n"
_OTHER_TOKENS = 200
_OTHER_DELAY = 0.002  # seconds


class Runaway(ScriptedBackend):
    """Ends its thinking and writes one text ``pieces`` times, without a pause."""

    def __init__(self, text: str, pieces: int) -> None:
        super().__init__(
            [""], supports_schema=True, template="<tool_call>", generation_prompt=_OPENED
        )
        self._text, self._pieces = text, pieces

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        yield Token("</think>")
        yield Token("So:\n")
        for _ in range(self._pieces):
            yield Token(self._text)
        report.ended = "eos"


async def runaway(text: str, pieces: int) -> float:
    """Seconds the whole call took."""
    began = time.perf_counter()
    small = ScriptedBackend([""], generation_prompt=_OPENED)
    large = Runaway(text, pieces)
    async with GlimpRouter(small, large, threshold=-1, max_tokens=pieces * 2) as router:
        async for _ in router.astream("?", OutputSpec(tools=[TOOL])):
            pass
    return time.perf_counter() - began


async def other(writes: asyncio.Event) -> tuple[float, float]:
    """Seconds in all, and the longest wait for a piece."""
    model = ScriptedBackend([" word"] * _OTHER_TOKENS + [""], delay=_OTHER_DELAY)
    began = last = time.perf_counter()
    longest = 0.0
    async with GlimpRouter(small=model, large=model, threshold=-1) as router:
        async for _ in router.astream("?"):
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            writes.set()
    return time.perf_counter() - began, longest


async def beside(text: str, pieces: int) -> dict[str, float]:
    """Both calls at the same time."""
    cpu = time.process_time()
    writes = asyncio.Event()
    running = asyncio.create_task(other(writes))
    await writes.wait()
    first = await runaway(text, pieces)
    seconds, longest = await running
    return {
        "pieces": pieces,
        "runaway_seconds": first,
        "other_seconds": seconds,
        "other_longest_wait": longest,
        "processor_seconds": time.process_time() - cpu,
    }


async def measure(text: str, lengths: list[int]) -> list[dict[str, float]]:
    """A row without a runaway, and one for each length."""
    await other(asyncio.Event())  # imports and caches
    seconds, longest = await other(asyncio.Event())
    rows = [{"pieces": 0, "other_seconds": seconds, "other_longest_wait": longest}]
    return rows + [await beside(text, pieces) for pieces in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pieces", type=int, nargs="+", default=[4000])
    parser.add_argument("--text", default=" " * 16, help="what every piece says")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.text, options.pieces))
    table = Table(title=f"pieces of {options.text!r}; seconds")
    for title in ("pieces", "runaway", "other call", "its longest wait", "processor"):
        table.add_column(title, justify="right")
    for row in rows:
        keys = ("runaway_seconds", "other_seconds", "other_longest_wait", "processor_seconds")
        table.add_row(
            str(row["pieces"] or "alone"), *(f"{row[k]:.3f}" if k in row else "" for k in keys)
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
