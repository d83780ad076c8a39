"""Connections: kept where a stream was read to its end, made ahead where one was cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.replies import Anything
from wire.fake_server import FakeServer
from wire.helpers import ANSWER, CHAIN, GREEDY, MESSAGES, chat, collect, text_of

WHOLE = "First, look.\n\nThen a hard step.\n\nSo it is 42."
Serve = Callable[..., FakeServer]
Connect = Callable[..., OpenAIBackend]
FAR = 0.02


def cancel_one(backend: OpenAIBackend) -> None:
    """Close a stream after its first token."""

    async def begin() -> None:
        async with aclosing(backend.generate(Request(chat(), 100), Report())) as tokens:
            async for _ in tokens:
                break

    io_loop.call(begin)


@pytest.mark.usefixtures("whole_bodies", "near_servers")
def test_whole_streams_share_a_connection(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    for engine in ("llama.cpp", "vllm"):
        server = serve(CHAIN, engine=engine)
        backend = connect(server)
        for _ in range(5):
            tokens, report = collect(backend, chat(), logprobs=20)
            assert text_of(tokens) == WHOLE
            assert report.ended == "eos"
        assert len(server.completions()) == 5
        assert server.accepted == 1


@pytest.mark.usefixtures("whole_bodies", "near_servers")
def test_a_glimpse_leaves_its_connection(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    server = serve(CHAIN)
    backend = connect(server)
    for _ in range(5):
        tokens, report = collect(backend, chat(), max_tokens=1, logprobs=20)
        assert (text_of(tokens), report.ended) == ("First", "length")
    assert server.accepted == 1


def test_a_body_that_does_not_end_holds_nobody_up(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    server = serve(CHAIN, lingers=True)
    backend = connect(server, verify="off")
    io_loop.call(backend.capabilities)
    started = time.monotonic()
    for _ in range(2):
        tokens, report = collect(backend, chat(), timeout=30.0)
        assert (text_of(tokens), report.ended) == (WHOLE, "eos")
    assert time.monotonic() - started < 5.0  # far below the timeout of a silent stream
    assert server.accepted > 1


@pytest.mark.usefixtures("whole_bodies", "near_servers")
def test_a_cancelled_stream_takes_its_connection_along(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    server = serve(CHAIN, delay=0.01)
    backend = connect(server)

    async def first_token() -> str:
        async with aclosing(backend.generate(Request(chat(), 100), Report())) as tokens:
            return (await anext(tokens)).text

    io_loop.call(backend.capabilities)
    before = server.accepted
    for _ in range(3):
        assert io_loop.call(first_token) == "First"
    # Reading it to its end instead would let the server write on for nobody.
    assert server.wait_for(lambda: server.aborted == 3)
    assert server.accepted == before + 2


def test_no_request_makes_a_client_or_leaves_the_loop(
    serve: Callable[..., FakeServer],
    connect: Callable[..., OpenAIBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy of the client for every request would look at the platform in a thread each time."""
    hops: list[object] = []
    stay = asyncio.to_thread

    async def count(function: Callable[..., object], *args: object) -> object:
        hops.append(function)
        return await stay(function, *args)

    monkeypatch.setattr(asyncio, "to_thread", count)
    server = serve(CHAIN)
    backend = connect(server)
    for _ in range(5):
        io_loop.call(lambda: backend.render(MESSAGES))
        collect(backend, chat())
    assert len(server.requests) > 15
    assert len(hops) <= 1


@pytest.mark.usefixtures("whole_bodies")
def test_a_far_server_has_a_connection_ready_behind_a_cancelled_stream(
    serve: Serve, connect: Connect
) -> None:
    server = serve(CHAIN, distance=FAR, delay=0.01)
    backend = connect(server)
    io_loop.call(backend.capabilities)
    assert server.wait_for(lambda: server.accepted == 2)  # made while the probe's stream ran
    assert server.wait_for(lambda: backend.connections._making is None)
    assert len(server.seen("/v1/models")) == 2  # once to learn who it serves, once to connect
    backend.connections.round_trip = None
    started = time.monotonic()
    io_loop.call(lambda: backend.get("/v1/models", Anything))
    elapsed = time.monotonic() - started
    # Measured within this request, however long a busy machine takes for it.
    assert FAR <= (backend.connections.round_trip or 0.0) <= elapsed
    cancel_one(backend)
    assert server.wait_for(lambda: server.aborted == 1)
    assert server.wait_for(lambda: backend.connections._making is None)
    ready = server.accepted
    collect(backend, chat())
    # None was opened for it: one made ahead was taken.
    assert server.seen("/v1/completions")[-1].connection <= ready


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
    server = serve(CHAIN, distance=FAR, engine="vllm", delay=0.002)
    backend = connect(server)
    io_loop.call(backend.capabilities)
    server.missing.add("/v1/models")
    router = GlimpRouter(backend, backend, strategy="fused", **GREEDY)
    assert router.run(MESSAGES).answer == ANSWER


def test_closing_stops_what_is_being_made(serve: Serve, connect: Connect) -> None:
    server = serve(CHAIN, distance=FAR, delay=0.01)
    backend = connect(server)
    io_loop.call(backend.capabilities)
    server.distance = 30.0
    cancel_one(backend)
    started = time.monotonic()
    backend.close()
    assert time.monotonic() - started < 2.0
    assert backend.connections._making is None
    server.distance = 0.0
