"""The interpreter's end while calls run: quiet, and the servers see the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from wire.helpers import ANSWER, CHAIN

PREAMBLE = """
import sys, threading, time
from glimp_integrations import GlimpRouter

shared = GlimpRouter(*sys.argv[1:], temperature=0.0, threshold=1.0, strategy="two_request")
def ask():
    print(shared.run("?").answer, flush=True)
"""
STARTING = """
threading.Thread(target=ask, daemon=True).start()
time.sleep({pause})
"""
RUNNING = """
import asyncio
# The first text is what was glimpsed; the third one comes of a stream that runs on.
def read():
    for number, _ in enumerate(e for e in shared.stream("?") if hasattr(e, "text")):
        number < 2 or begun.set()
async def aread():
    texts = 0
    async for event in shared.astream("?"):
        texts += hasattr(event, "text")
        texts < 3 or begun.set()
for target in (read, ask, lambda: asyncio.run(aread())):
    begun = threading.Event()
    threading.Thread(target=target, daemon=True).start()
    target is ask or begun.wait(10)
"""
OPEN = """
stream = shared.stream("?")
next(stream), next(stream), next(stream)
"""
LATE = """
def later():
    threading.main_thread().join()
    ask()
threading.Thread(target=later).start()
"""


def run(script: str, *servers: Any) -> str:
    """What a script prints; it has to end without a word on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *(s.model_string for s in servers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=25.0,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return done.stdout.strip()


MORE_MOMENTS = [pytest.param(pause, marks=pytest.mark.slow) for pause in (0.1, 0.6)]


# At once, and in the middle of it; the slow ones are other moments of the same start-up.
@pytest.mark.parametrize("pause", [0.0, 0.3, *MORE_MOMENTS])
def test_a_first_call_that_still_starts_up(serve: Callable[..., Any], pause: float) -> None:
    servers = serve(CHAIN, distance=0.1), serve(CHAIN, model="large", distance=0.1)
    assert run(STARTING.format(pause=pause), *servers) in ("", ANSWER)


@pytest.mark.parametrize("script", [RUNNING, OPEN], ids=["running", "open"])
def test_calls_that_run(serve: Callable[..., Any], script: str) -> None:
    endless = ["word "] * 3000
    servers = serve(endless, delay=0.01), serve(endless, model="large", delay=0.01)
    assert run(script, *servers) == ""
    # The server notices it when it writes next, on a busy machine some time later.
    assert servers[0].wait_for(lambda: not servers[0].active and servers[0].aborted, 5.0)


def test_a_first_call_after_the_main_threads_end(serve: Callable[..., Any]) -> None:
    servers = serve(CHAIN), serve(CHAIN, model="large")
    assert run(LATE, *servers) == ANSWER


def test_a_call_after_the_interpreters_end_says_so(serve: Callable[..., Any]) -> None:
    # Functions that were registered first are called last.
    script = """
import atexit
def last():
    try:
        ask()
    except RuntimeError as error:
        print(error)
atexit._clear()
atexit.register(last)
from glimp_integrations import io_loop
atexit.register(io_loop._shut_down)
ask()
"""
    servers = serve(CHAIN), serve(CHAIN, model="large")
    assert "make the call before the program ends" in run(script, *servers)
