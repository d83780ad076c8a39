"""A stream that came to its end leaves a connection for the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from glimp_integrations import bridge
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.openai import OpenAIBackend
from wire.fake_server import FakeServer
from wire.helpers import CHAIN, MESSAGES, chat, collect, text_of

WHOLE = "First, look.\n\nThen a hard step.\n\nSo it is 42."


def test_whole_streams_share_a_connection(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    for flavour in ("llama.cpp", "vllm"):
        server = serve(CHAIN, flavour=flavour)
        backend = connect(server)
        for _ in range(5):
            tokens, report = collect(backend, chat(), logprobs=20)
            assert text_of(tokens) == WHOLE
            assert report.ended == "eos"
        assert len(server.completions()) == 5
        assert server.accepted == 1


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
    bridge.call(backend.capabilities)
    started = time.monotonic()
    for _ in range(2):
        tokens, report = collect(backend, chat(), timeout=30.0)
        assert (text_of(tokens), report.ended) == (WHOLE, "eos")
    assert time.monotonic() - started < 5.0  # far below the timeout of a silent stream
    assert server.accepted > 1


def test_a_cancelled_stream_takes_its_connection_along(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend]
) -> None:
    server = serve(CHAIN, delay=0.01)
    backend = connect(server)

    async def first_token() -> str:
        async with aclosing(backend.generate(Request(chat(), 100), Report())) as tokens:
            return (await anext(tokens)).text

    bridge.call(backend.capabilities)
    before = server.accepted
    for _ in range(3):
        assert bridge.call(first_token) == "First"
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
        bridge.call(lambda: backend.render(MESSAGES))
        collect(backend, chat())
    assert len(server.requests) > 15
    assert len(hops) <= 1
