"""Streams that nobody closed, at the end of a loop: silence."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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
for _ in range(5):
    for step_events in (False, True):
        models = pair("It ", "is ", "sunny.")
        llm = GlimpRouterLLM(**models, step_events=step_events, temperature=0)
        asyncio.run(main(llm, {way!r}))
print("ended")
"""


@pytest.mark.parametrize("way", ["astream_chat", "astream_complete"])
def test_a_loop_that_ends_with_an_open_stream_is_silent(way: str) -> None:
    root = Path(__file__).parents[2]
    script = textwrap.dedent(SCRIPT).format(paths=[str(root / "tests"), str(root)], way=way)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
