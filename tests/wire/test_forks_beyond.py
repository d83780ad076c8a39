"""Processes that fork: with TLS, and where the caller's own loop is uvloop's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wire.forking import run
from wire.helpers import CHAIN
from wire.tls import SecureServer, certificate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# A stream of the parent goes on while a child asks, and after that child's end, which must not say
# goodbye on the parent's connections. Then the parent's kept connections are used again.
WARM = """
shared = router()
shared.run("?")
stream = shared.stream("?")
for _ in range(4):
    next(stream)
child = forked(lambda: print(shared.run("?").answer, end="|", flush=True))
ended(child)
*_, last = stream
print(last.result.answer, end="|", flush=True)
print(shared.run("?").answer, end="|", flush=True)
"""
# uvloop closes what it knows of when a process forks; the child runs a loop of its own besides.
UVLOOP = """
import asyncio, uvloop

def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)

async def ask():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    return (await shared.arun("?")).answer

def of_child(_):
    return run(ask()) + "|" + shared.run("?").answer

async def main():
    print(await ask(), end="|")
    stream = shared.astream("?")
    for _ in range(4):
        await anext(stream)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = await asyncio.to_thread(pool.map, of_child, range(2))
        print(*answers, sep="|", end="|")
    async for last in stream:
        pass
    print(last.result.answer, await ask(), sep="|", end="|", flush=True)

shared = router()
run(main())
ended(forked(lambda: print(of_child(0), end="|", flush=True)))
print(run(ask()), end="|", flush=True)
"""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Callable[..., SecureServer]]:
    """Start a fake server with TLS."""
    path = certificate(tmp_path)
    with ExitStack() as stack:

        def start(*args: Any, **options: Any) -> SecureServer:
            server = SecureServer(*args, **options)
            server.certificate = path
            return stack.enter_context(server)

        yield start


def test_a_child_leaves_the_parents_tls_connections_alone(
    secure: Callable[..., SecureServer],
) -> None:
    servers = secure(CHAIN, delay=0.02), secure(CHAIN, model="large", delay=0.02)
    run(WARM, *servers, SSL_CERT_FILE=str(servers[0].certificate))


def test_forks_of_a_program_on_uvloop(serve: Callable[..., Any]) -> None:
    pytest.importorskip("uvloop")
    servers = serve(CHAIN, delay=0.01), serve(CHAIN, model="large", delay=0.01)
    run(UVLOOP, *servers)
