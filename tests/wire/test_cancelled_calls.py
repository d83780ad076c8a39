"""Calls that are cancelled leave no connection open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from glimp_integrations import GlimpRouter
from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.fake_server import FakeServer
from wire.helpers import CHAIN, GREEDY, MESSAGES

AT_ONCE = 25


@pytest.mark.parametrize("calls", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_connection_stays_open(
    calls: int, serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    server = serve(CHAIN, delay=0.005)
    backend = connect(server)
    router = GlimpRouter(backend, backend, **GREEDY)
    assert router.run(MESSAGES).answer  # the server is known, so that all calls stream
    draw = random.Random(7)

    async def burst() -> int:
        free, cancelled = asyncio.Semaphore(AT_ONCE), 0

        async def one() -> None:
            nonlocal cancelled
            async with free:
                call = asyncio.create_task(router.arun(MESSAGES))
                await asyncio.sleep(draw.random() * 0.1)
                cancelled += call.cancel()
                await asyncio.wait([call])

        await asyncio.gather(*[one() for _ in range(calls)])
        return cancelled

    assert asyncio.run(burst()) > calls / 2
    assert server.wait_for(lambda: server.active == 0)
    # What is open waits for a request, and no more were ever needed than calls ran at once.
    assert server.wait_for(lambda: len(server.connections) <= AT_ONCE + 1)
    assert router.run(MESSAGES).answer
    backend.close()
    assert server.wait_for(lambda: not server.connections)
