"""Processes that fork: while a first call starts up, when warm, and in pools."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wire.fake_server import FakeHandler, FakeServer
from wire.forking import PREAMBLE, run
from wire.helpers import CHAIN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Gated(FakeServer):
    """Answers no short request until it is asked for ``/forked``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = _GatedHandler
        self.gate = threading.Event()


class _GatedHandler(FakeHandler):
    def do_GET(self) -> None:
        if self.path == "/forked":
            self.owner.gate.set()
        self.owner.gate.wait(20.0)
        super().do_GET()


def test_forks_while_the_first_call_starts_up(serve: Callable[..., Any]) -> None:
    # The parent's call holds its lock until the child is there.
    script = """
import http.client
from glimp_integrations import io_loop

shared = router()
first = threading.Thread(target=lambda: io_loop.call(shared.small.capabilities))
first.start()
while (lock := shared.small._lock._lock) is None or not lock[1].locked():
    time.sleep(0.001)

def work():
    assert not lock[0].is_closed() and lock[1].locked()
    http.client.HTTPConnection(SMALL.split("/")[2]).request("GET", "/forked")
    print(shared.run("?").answer, end="|", flush=True)

ended(forked(work))
first.join()
"""
    with Gated(CHAIN) as small:
        run(script, small, serve(CHAIN, model="large"))


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
