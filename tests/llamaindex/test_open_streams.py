"""Streams that nobody closed, at the end of a loop: silence."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
import asyncio, sys
sys.path[:0] = {paths!r}
from llama_index.core.llms import ChatMessage
from scripts import pair
from llamaindex_glimp import GlimpRouterLLM

kept = []
said = {{"astream_chat": [ChatMessage("hi")], "astream_complete": "hi"}}

async def main(llm, way):
    kept.append(await getattr(llm, way)(said[way]))
    await anext(kept[-1])

# Python closes generators in any order: several times, to meet all of them.
for way in said:
    for _ in range(5):
        for step_events in (False, True):
            models = pair("It ", "is ", "sunny.")
            llm = GlimpRouterLLM(**models, step_events=step_events, temperature=0)
            asyncio.run(main(llm, way))
    print("ended", way, flush=True)
"""


def test_a_loop_that_ends_with_an_open_stream_is_silent() -> None:
    root = Path(__file__).parents[2]
    script = textwrap.dedent(SCRIPT).format(paths=[str(root / "tests"), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    lines = ["ended astream_chat", "ended astream_complete"]
    assert (done.returncode, done.stdout.splitlines()) == (0, lines)
