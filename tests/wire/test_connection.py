"""The client for HTTP/1.1 against servers that write whatever bytes they like."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import zlib
from contextlib import suppress
from io import BytesIO

import pytest

from glimp_integrations.backends.http.connection import BrokenConnectionError
from wire.raw_server import (
    BODY,
    CHUNKED,
    HINTS,
    HTTP,
    WHOLE,
    Server,
    body_of,
    chunks,
    client_of,
    flood,
    hang_up,
    long,
    until,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_proxies")]


# -- Bodies --------------------------------------------------------------------------------------


def zipped(body: bytes) -> bytes:
    """Without the time in it: a response is the name of its test, which must not change."""
    return gzip.compress(body, mtime=0)


ZIPPED, TWICE = zipped(BODY), zipped(BODY[:20]) + zipped(BODY[20:])
KEPT = {
    "length": long(BODY),
    "other case, no space": HTTP + b"CONTENT-LENGTH:%d\r\n\r\n" % len(BODY) + BODY,
    "no reason": long(BODY, http=b"HTTP/1.1 200\r\n"),
    "1.0, kept": long(BODY, b"Connection: keep-alive", http=b"HTTP/1.0 200 OK\r\n"),
    "chunked": chunks(),
    "chunked, upper case": chunks("{:X}"),
    "chunked, leading zeros": chunks("000{:X}"),
    "chunked, extensions": chunks('{:x};a;b=c;d="e;f"'),
    "chunked, spaces": chunks("{:x}  "),
    "chunked, trailers": chunks(trailers=b"A: b\r\nServer-Timing: x;dur=1\r\n"),
    "gzip": long(ZIPPED, b"Content-Encoding: gzip"),
    "gzip in two members": long(TWICE, b"Content-Encoding: gzip"),
    "deflate": long(zlib.compress(BODY), b"Content-Encoding: deflate"),
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\n" + long(BODY),
    "after 103": HINTS + chunks(),
    "after many": (b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS) * 20 + long(BODY),
}
ENDED = {
    "until the end": HTTP + b"Connection: close\r\n\r\n" + BODY,
    "until the end, unsaid": HTTP + b"\r\n" + BODY,
    "1.0 until the end": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "gzip until the end": HTTP + b"Content-Encoding: gzip\r\n\r\n" + ZIPPED,
    "length, then the end": long(BODY, b"Connection: close"),
    "after 103": HINTS + HTTP + b"\r\n" + BODY,
}
FRAMED = [
    *(pytest.param(reply, False, id=name) for name, reply in KEPT.items()),
    *(pytest.param(reply, True, id=f"{name}, ended") for name, reply in ENDED.items()),
]


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("reply", "ends"), FRAMED)
async def test_every_framing_comes_to_the_same_bytes(
    reply: bytes, ends: bool, bytewise: bool
) -> None:
    pieces = tuple(reply[at : at + 1] for at in range(len(reply))) if bytewise else (reply,)
    server = Server(pieces, ends=ends)
    async with client_of(server) as request:
        assert await body_of(request) == BODY
        fed = BytesIO()
        async with request() as response:
            assert not await response.feed(lambda data: fed.write(data) > 0)
        assert fed.getvalue() == BODY
    assert server.connections == (2 if ends else 1)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        long(b""),
        CHUNKED + b"0\r\n\r\n",
        long(zipped(b""), b"Content-Encoding: gzip"),
    ],
)
async def test_empty_bodies_end_at_once(reply: bytes) -> None:
    server = Server(reply, reply, WHOLE)
    async with client_of(server) as request:
        assert [await body_of(request) for _ in range(3)] == [b"", b"", b"hi"]
    assert server.connections == 1


# -- What comes before the response --------------------------------------------------------------


@pytest.mark.parametrize("status", [b"104", b"199", b"000"])
async def test_the_body_of_what_is_no_response_is_no_body(status: bytes) -> None:
    reply = long(b"smuggled", http=b"HTTP/1.1 " + status + b" X\r\n") + WHOLE
    async with client_of(Server(reply)) as request:
        with suppress(BrokenConnectionError):  # as good
            assert await body_of(request) == b"hi"


HEADS = [
    (b"", HINTS * 500),
    (HTTP + b"A: ", b"a" * 5000),
    (HTTP, b"a" * 5000),
    (HTTP, b"A: b\r\n" * 1000),
    (HTTP, b"A: b\r\n" * 100_000),
    (b"HTTP/1.1 200 ", b"a" * 50),
    (b"", b"\r\n" * 1000),
]


@pytest.mark.parametrize("number", range(len(HEADS)))
async def test_a_head_without_end_fails(number: int) -> None:
    server = Server(flood(*HEADS[number]))
    async with client_of(server) as request:
        with pytest.raises(BrokenConnectionError, match="head of its response is longer than 65,5"):
            await body_of(request)
    assert server.connections == 1 and server.written < 10_000_000


async def test_what_is_no_response_cannot_go_on_for_ever() -> None:
    reply = flood(b"", long(b"a" * 1000, http=b"HTTP/1.1 199 X\r\n"))
    async with client_of(Server(reply)) as request, asyncio.timeout(2):
        with pytest.raises(BrokenConnectionError, match="before the real one has a body"):
            await body_of(request)


FRAMINGS = [
    (b"0\r\n", b"A: b\r\n" * 1000),
    (b"0\r\nA: ", b"a" * 5000),
    (b"5;", b"a" * 5000),
    (b"5", b";a=b" * 1000),
    (b"5", b" " * 5000),
    (b"", b"0" * 5000),
]


@pytest.mark.parametrize(("beginning", "repeated"), FRAMINGS)
async def test_framing_without_end_fails_after_the_body(beginning: bytes, repeated: bytes) -> None:
    server = Server(flood(CHUNKED + b"5\r\nhello\r\n" + beginning, repeated))
    async with client_of(server) as request, request() as response:
        assert await response.next() == b"hello"
        with pytest.raises(BrokenConnectionError, match="framing of its body is longer than 65,53"):
            await response.next()
    assert server.written < 10_000_000


# -- What is no HTTP -----------------------------------------------------------------------------

UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n\x00\x00"
)
NO_HTTP = [
    b"SSH-2.0\r\n",
    b"\x00" * 100,
    b"\x15\x03\x01\x00\x02\x02\x46",  # a fatal alert of TLS
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"<html>no head at all</html>",
    UPGRADED,
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x00\x00",
    HTTP + b"no header\r\n\r\n",
    HTTP + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    HTTP + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    *(
        HTTP + b"Content-Length: " + length + b"\r\n\r\nhello"
        for length in (b"-5", b"five", b"0x5", b"5, 6", b"5\r\nContent-Length: 6", b"9" * 30, b"")
    ),
    CHUNKED + b"five\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"f" * 17 + b"\r\nhello",
    CHUNKED + b"5\r\nhello, world\r\n0\r\n\r\n",
]
CUT = [
    b"",
    b"H",
    HTTP,
    HTTP + b"Content-Length: 10\r\n\r\nhello",
    HINTS,
    HTTP + b"Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n" + ZIPPED[:20],
    CHUNKED,
    CHUNKED + b"5\r\nhel",
    CHUNKED + b"5\r\nhello\r\n",
    CHUNKED + b"5\r\nhello\r\n0\r\n",
]


@pytest.mark.parametrize("reply", NO_HTTP)
async def test_what_is_no_http_fails_at_once(reply: bytes) -> None:
    server = Server(reply)
    async with client_of(server) as request:
        with pytest.raises(BrokenConnectionError, match=r"\w+ \w+"):
            await body_of(request)
        await until(lambda: not server.open)
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", CUT)
async def test_what_is_cut_off_fails(reply: bytes) -> None:
    server = Server(reply, ends=True)
    async with client_of(server) as request:
        with pytest.raises(BrokenConnectionError, match=r"closed the connection|not complete"):
            await body_of(request)
    assert len(server.requests) == 1


# -- Used again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        (WHOLE, 1),
        (long(b"hi", b"Connection: close"), 2),
        (long(b"hi", http=b"HTTP/1.0 200 OK\r\n"), 2),
        (long(b"hi", b"Connection: keep-alive", http=b"HTTP/1.0 200 OK\r\n"), 1),
        (WHOLE + WHOLE, 2),
        (WHOLE + b"H", 2),
        (WHOLE + b"\x00", 2),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + HINTS, 2),
        (b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nhello", 2),
    ],
)
async def test_a_connection_is_used_again_if_nothing_is_left_on_it(
    reply: bytes, connections: int
) -> None:
    server = Server(reply, WHOLE)
    async with client_of(server) as request:
        assert await body_of(request) == (b"" if b" 204 " in reply else b"hi")
        assert await body_of(request) == b"hi"
    assert server.connections == connections


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("surplus", [WHOLE, b"H", b"HTTP/1.1 408 Too Late\r\n\r\n", None])
async def test_what_an_idle_connection_hears_ends_it(surplus: bytes | None, is_read: bool) -> None:
    server = Server(WHOLE)
    async with client_of(server) as request:
        assert await body_of(request) == b"hi"
        there = server.writers[0].get_extra_info("socket").fileno()
        if surplus is None:
            with socket.socket(fileno=os.dup(there)) as same:
                same.shutdown(socket.SHUT_WR)
        else:
            os.write(there, surplus)  # without a turn of the loop, in which the client would see it
        if is_read:
            await until(lambda: not server.open)
        assert await body_of(request) == b"hi"
    assert server.connections == 2


async def test_a_body_left_in_the_middle_costs_its_connection() -> None:
    server = Server(CHUNKED + b"2\r\nhi\r\n", WHOLE)
    async with client_of(server) as request:
        async with request() as response:
            assert await response.next() == b"hi"
        await until(lambda: not server.open)
        assert await body_of(request) == b"hi"
    assert server.connections == 2


async def test_a_long_body_that_came_and_was_not_read_does_not_block_the_next() -> None:
    server = Server(long(bytes(300_000)), WHOLE)
    async with client_of(server) as request:
        async with request() as response:
            await until(lambda: response._connection.is_over)
        async with asyncio.timeout(2):
            assert await body_of(request) == b"hi"


@pytest.mark.parametrize("closed", [1, 2])
async def test_a_request_is_sent_again_if_its_used_connection_was_closed(closed: int) -> None:
    server = Server(*[WHOLE] * closed, *[hang_up] * closed, WHOLE)
    async with client_of(server) as request:
        both = [asyncio.create_task(body_of(request, b"{}")) for _ in range(closed)]
        assert await asyncio.gather(*both) == [b"hi"] * closed
        assert await body_of(request, b'{"a":1}') == b"hi"
    assert server.connections == closed + 1 and len(server.requests) == 2 * closed + 1
    assert all(one.endswith(b'\r\n\r\n{"a":1}') for one in server.requests[closed:])


@pytest.mark.parametrize("beginning", [b"H", HINTS, HTTP + b"Content-Length: 2\r\n\r\n"])
async def test_it_is_not_sent_again_if_a_byte_has_come(beginning: bytes) -> None:
    async def begin(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        writer.close()

    server = Server(WHOLE, begin, WHOLE)
    async with client_of(server) as request:
        assert await body_of(request) == b"hi"
        with pytest.raises(BrokenConnectionError):
            await body_of(request)
    assert server.connections == 1 and len(server.requests) == 2
