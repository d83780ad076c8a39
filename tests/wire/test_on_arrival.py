"""Bodies that are looked at where their data arrives, in the callback of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

import pytest
from openai import AsyncOpenAI

from glimp_integrations import BackendError, GlimpRouter
from glimp_integrations.backends import OpenAIBackend
from glimp_integrations.backends.http.client import HttpClient, Response
from glimp_integrations.backends.http.connection import BrokenConnectionError
from glimp_integrations.backends.http.connections import Connections
from wire.fake_server import FakeServer, Fault, Tok
from wire.given_clients import HTTPX
from wire.helpers import ANSWER, CHAIN, REASONING

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOSE: ContextVar[str] = ContextVar("WHOSE", default="nobody's")


class Pieces:
    """Sends a body in pieces that are read one by one; a scripted server."""

    def __init__(self, *pieces: bytes, end: bytes = b"0\r\n\r\n") -> None:
        self.pieces, self.end, self.connections = pieces, end, 0
        self.tasks: list[asyncio.Task[object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(HEAD)
                for piece in self.pieces:
                    await asyncio.sleep(0.02)
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(self.end)
                if self.end != b"0\r\n\r\n":
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has left
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def client_of(server: Pieces) -> AsyncIterator[Callable[[], object]]:
    """From nothing to a response of that server, as often as it is called."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    client = HttpClient(
        url, api_key=None, headers=dict, connections=Connections(lambda: asyncio.sleep(0))
    )
    try:
        yield lambda: client.request("GET", url, seconds=10)
    finally:
        await client.aclose()
        listening.close()
        await asyncio.gather(*server.tasks)


async def fed(response: Response, take: Callable[[bytes], bool]) -> list[bool]:
    """What ``feed`` returned, up to the end."""
    returned = []
    while not returned or returned[-1]:
        returned.append(await response.feed(take))
    return returned


async def by_feeding(response: Response, here: bytearray) -> None:
    await fed(response, lambda data: not here.extend(data))


async def by_next(response: Response, here: bytearray) -> None:
    while data := await response.next():
        here += data


def test_nobody_is_woken_up_for_what_is_taken() -> None:
    async def ask() -> None:
        server = Pieces(*(f"{number}".encode() for number in range(30)))
        taken: list[tuple[bytes, str, bool]] = []

        def take(data: bytes) -> bool:
            woken = _is_in_task()
            taken.append((data, WHOSE.get(), woken))
            return True

        async with client_of(server) as request:
            WHOSE.set("mine")  # after which the connection is made, and before
            for whose in ("mine", "another's"):
                WHOSE.set(whose)
                taken.clear()
                async with request() as response:
                    assert await fed(response, take) == [False]
                assert b"".join(data for data, _, _ in taken) == b"".join(server.pieces)
                assert {seen for _, seen, _ in taken} == {whose}, (
                    "a callback's context is the call's"
                )
                # A few may have come together with the head, or with one another.
                assert sum(not woken for _, _, woken in taken) > 20
        assert server.connections == 1, "read to its end, it carries the next request"

    asyncio.run(ask())


def _is_in_task() -> bool:
    return asyncio.current_task() is not None


def test_what_is_not_taken_is_handed_on() -> None:
    async def ask() -> None:
        server = Pieces(b"a", b"b", b"c", b"d")
        async with client_of(server) as request, request() as response:
            assert await fed(response, lambda data: b"b" not in data) == [True, False]

    asyncio.run(ask())


def test_what_the_taker_raises_is_raised() -> None:
    async def ask() -> None:
        def take(data: bytes) -> bool:
            if b"c" in data:
                raise ValueError("no c")
            return True

        server = Pieces(b"a", b"b", b"c", b"d")
        async with client_of(server) as request:
            with pytest.raises(ValueError, match="no c"):
                async with request() as response:
                    await response.feed(take)
            async with request() as response:
                assert await response.feed(lambda data: b"d" not in data)
        assert server.connections == 2, "a connection that is left in the middle is closed"

    asyncio.run(ask())


@pytest.mark.parametrize("feeds", [True, False])
@pytest.mark.parametrize("end", [b"", b"zz\r\n", b"5\r\nab"])
def test_what_came_before_a_broken_end_is_here(end: bytes, feeds: bool) -> None:
    async def ask() -> None:
        server = Pieces(b"a", b"b", b"c", end=end)
        here = bytearray()
        async with client_of(server) as request, request() as response, asyncio.timeout(5):
            body = by_feeding(response, here) if feeds else by_next(response, here)
            with pytest.raises(BrokenConnectionError):
                await body
        assert bytes(here[:3]) == b"abc"

    asyncio.run(ask())


def test_a_connection_that_is_used_again_is_as_it_was() -> None:
    async def ask() -> None:
        server = Pieces(b"a", b"b")
        async with client_of(server) as request:
            for _ in range(3):
                async with request() as response:
                    assert await fed(response, lambda _: True) == [False]
        assert server.connections == 1

    asyncio.run(ask())


def test_a_wait_can_be_left() -> None:
    async def ask() -> None:
        server = Pieces(*[b"a"] * 50)
        async with client_of(server) as request, request() as response:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.feed(lambda data: True)
            assert await response.next(), "the rest can still be read"

    asyncio.run(ask())


def test_a_call_may_be_cancelled_while_data_is_looked_at() -> None:
    async def ask() -> None:
        server = Pieces(*[b"a"] * 10)
        async with client_of(server) as request, request() as response:
            seen = 0

            def take(data: bytes) -> bool:
                nonlocal seen
                seen += 1
                if seen == 3:
                    feeding.cancel()
                return seen != 3

            feeding = asyncio.create_task(response.feed(take))
            with pytest.raises(asyncio.CancelledError):
                await feeding
            rest = b""
            while data := await response.next():
                rest += data
            assert len(rest) + 3 >= 10

    asyncio.run(ask())


# -- In calls ------------------------------------------------------------------------------------


def routed(server: FakeServer, **options: object) -> GlimpRouter:
    backend = OpenAIBackend(base_url=server.url)
    options = {"temperature": 0.0, "route": "always", "max_retries": 0, **options}
    return GlimpRouter(backend, backend, **options)


@pytest.mark.parametrize("strategy", ["two_request", "fused", "overlap"])
@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_call_comes_to_the_same(engine, strategy) -> None:
    with FakeServer(CHAIN, engine=engine) as server:
        one = routed(server, strategy=strategy)
        result = one.run("?")
        *_, last = one.stream("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    times = {"seconds": 0.0, "first_token_seconds": None}
    both = [
        [step.model_copy(update=times) for step in each.trace.steps]
        for each in (result, last.result)
    ]
    assert both[0] == both[1]


def test_the_limit_is_for_each_token_and_not_for_a_step() -> None:
    words: list[Tok | str] = [f" w{number}" for number in range(20)]
    with FakeServer(words, delay=0.1) as server:
        result = routed(server, timeout=1.0, threshold=-1.0).run("?")
        assert result.answer.split()[-1] == "w19", "two seconds for 20 tokens"
        server.faults.append(Fault("hang", tokens=5, chat_only=True))
        began = time.monotonic()
        with pytest.raises(BackendError, match="did not answer in time") as failed:
            routed(server, timeout=1.0, threshold=-1.0).run("?")
        assert 1.0 < time.monotonic() - began < 5.0
    assert failed.value.partial is not None
    assert failed.value.partial.answer == " w0 w1 w2 w3 w4"


def test_the_read_timeout_of_a_given_client_holds() -> None:
    words: list[Tok | str] = [f" w{number}" for number in range(20)]
    with FakeServer(words, faults=[Fault("hang", tokens=5, chat_only=True)]) as server:
        timeout = HTTPX.Timeout(30, read=0.5)
        client = AsyncOpenAI(base_url=server.url, api_key="k", timeout=timeout, max_retries=0)
        backend = OpenAIBackend(client=client)
        one = GlimpRouter(
            backend, backend, temperature=0.0, route="always", max_retries=0, threshold=-1.0
        )
        began = time.monotonic()
        with pytest.raises(BackendError) as failed:
            one.run("?", timeout=20.0)
        assert time.monotonic() - began < 5.0
    assert failed.value.partial is not None
    assert failed.value.partial.answer == " w0 w1 w2 w3 w4"
