"""Processes that fork: while a first call starts up, when warm, and in pools."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from wire.helpers import ANSWER, CHAIN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PREAMBLE = """
import multiprocessing, os, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from glimp_integrations import GlimpRouter
SMALL, LARGE = sys.argv[1:]

def router():
    return GlimpRouter(SMALL, LARGE, temperature=0.0, threshold=1.0, strategy="two_request")

def forked(work):
    # The child ends as programs do, so that everything in it is destroyed.
    child = os.fork()
    if child == 0:
        work()
        sys.exit(7)
    return child

def ended(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def run(script: str, *servers: Any, seconds: float = 25.0) -> None:
    """Run a script in a process of its own; it has to end without a word on standard error."""
    models = [server.model_string for server in servers]
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *models],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    assert set(done.stdout.split("|")) == {ANSWER, ""}, done.stdout


def test_forks_while_the_first_call_starts_up(serve: Callable[..., Any]) -> None:
    servers = serve(CHAIN, distance=0.1), serve(CHAIN, model="large", distance=0.1)
    script = """
from glimp_integrations import io_loop

shared = router()
first = threading.Thread(target=lambda: io_loop.call(shared.small.capabilities))
first.start()
while (lock := shared.small._lock._lock) is None or not lock[1].locked():
    time.sleep(0.001)
child = forked(lambda: print(shared.run("?").answer, end="|", flush=True))
ended(child)
first.join()
"""
    run(script, *servers)


def test_forks_of_a_warm_router_leave_the_parents_streams_alone(
    serve: Callable[..., Any],
) -> None:
    servers = serve(CHAIN, delay=0.02), serve(CHAIN, model="large", delay=0.02)
    script = """
shared = router()
shared.run("?")
for wait in (0, 4, 9):
    stream = shared.stream("?")
    for _ in range(wait + 1):
        next(stream)
    child = forked(lambda: print(shared.run("?").answer, end="|", flush=True))
    *_, last = stream
    print(last.result.answer, end="|", flush=True)
    ended(child)
    print(shared.run("?").answer, end="|", flush=True)
"""
    run(script, *servers)


def test_a_pool_of_forked_processes(serve: Callable[..., Any]) -> None:
    servers = serve(CHAIN), serve(CHAIN, model="large")
    script = """
shared = router()
shared.run("?")
def work(_):
    return shared.run("?").answer
with multiprocessing.get_context("fork").Pool(3) as pool:
    print("|".join(pool.map(work, range(6), chunksize=1)))
""".replace("))\n", '), end="|")\n')
    run(script, *servers)


def test_a_child_holds_no_copy_of_the_parents_connections(serve: Callable[..., Any]) -> None:
    """A server sees that a stream was closed, while a child lives that knows nothing of it."""
    endless = ["word "] * 3000
    small, large = serve(endless, delay=0.01), serve(endless, model="large", delay=0.01)
    script = """
stream = router().stream("?")
for _ in range(6):
    next(stream)
child = forked(lambda: os.read(0, 1))
stream.close()
print("closed", flush=True)
ended(child)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, small.model_string, large.model_string],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"closed\n"
    seen = small.wait_for(lambda: not small.active and not large.active, 3.0)
    process.communicate(b"x", timeout=15.0)  # now the child may end
    assert process.returncode == 0
    assert seen, "the server saw no end while the child lived"
