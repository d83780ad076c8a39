"""Connections: kept where a stream was read to its end, made ahead where one was cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from glimp_integrations import GlimpRouter, bridge
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.openai import OpenAIBackend
from wire.fake_server import FakeServer
from wire.helpers import ANSWER, CHAIN, GREEDY, MESSAGES, chat, collect, text_of

Serve = Callable[..., FakeServer]
Connect = Callable[..., OpenAIBackend]
FAR = 0.02


def cancel_one(backend: OpenAIBackend) -> None:
    """Close a stream after its first token."""

    async def begin() -> None:
        async with aclosing(backend.generate(Request(chat(), 100), Report())) as tokens:
            async for _ in tokens:
                break

    bridge.call(begin)


@pytest.mark.parametrize("flavour", ["llama.cpp", "vllm"])
def test_streams_read_to_the_end_share_one_connection(
    serve: Serve, connect: Connect, flavour: str
) -> None:
    server = serve(CHAIN, flavour=flavour)
    backend = connect(server)
    texts = {text_of(collect(backend, chat())[0]) for _ in range(5)}
    assert len(texts) == 1
    assert server.accepted == 1 == backend.connections.opened


def test_a_response_that_stays_open_behind_its_end_is_not_waited_for(
    serve: Serve, connect: Connect
) -> None:
    backend = connect(serve(CHAIN, linger=3.0))
    bridge.call(backend.capabilities)
    started = time.monotonic()
    assert text_of(collect(backend, chat())[0]).endswith("42.")
    assert time.monotonic() - started < 2.0


def test_a_far_server_has_a_connection_ready_behind_a_cancelled_stream(
    serve: Serve, connect: Connect
) -> None:
    server = serve(CHAIN, distance=FAR, delay=0.01)
    backend = connect(server)
    bridge.call(backend.capabilities)
    found = backend.connections.round_trip
    assert found is not None and FAR <= found < 10 * FAR
    cancel_one(backend)
    assert server.wait_for(lambda: server.accepted == 2 and server.aborted == 1)
    assert server.wait_for(lambda: len(server.seen("/v1/models")) == 2)
    time.sleep(3 * FAR)
    collect(backend, chat())
    assert server.seen("/v1/completions")[-1].connection == 2  # the one made ahead was taken


def test_a_near_server_is_left_alone(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, delay=0.01)
    backend = connect(server)
    backend.connections.round_trip = 0.001  # a busy machine may be slower than a near server
    cancel_one(backend)
    backend.connections.round_trip = 0.001
    cancel_one(backend)
    assert len(server.seen("/v1/models")) == 1


def test_a_connection_that_cannot_be_made_ahead_is_no_failure(
    serve: Serve, connect: Connect
) -> None:
    server = serve(CHAIN, distance=FAR, flavour="vllm", delay=0.002)
    backend = connect(server)
    bridge.call(backend.capabilities)
    server.missing.add("/v1/models")
    router = GlimpRouter(backend, backend, strategy="fused", **GREEDY)
    assert router.run(MESSAGES).answer == ANSWER


def test_closing_stops_what_is_being_made(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, distance=FAR, delay=0.01)
    backend = connect(server)
    bridge.call(backend.capabilities)
    server.distance = 30.0
    cancel_one(backend)
    started = time.monotonic()
    backend.close()
    assert time.monotonic() - started < 2.0
    assert backend.connections._making is None
    server.distance = 0.0
