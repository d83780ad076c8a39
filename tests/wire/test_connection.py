"""The client for HTTP/1.1 against servers that write whatever bytes they like."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import re
import shutil
import socket
import ssl
import subprocess
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from glimp_integrations.backends.http import dialing, pool
from glimp_integrations.backends.http.client import HttpClient, UnreachableError
from glimp_integrations.backends.http.connection import BrokenConnectionError
from glimp_integrations.backends.http.connections import Connections

pytestmark = pytest.mark.timeout(60)

BODY = b"All of it.\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n5\r\nand so on\xff\x00"
HTTP = b"HTTP/1.1 200 OK\r\n"
WHOLE = HTTP + b"Content-Length: 2\r\n\r\nhi"
CHUNKED = HTTP + b"Transfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Encoding: br\r\n\r\n"
BIG = bytes(range(256)) * 200_000  # about 50 MB
NAME = "models.invalid"


class Server:
    """Answers requests with given bytes; a scripted server.

    Args:
        replies: One for each request, on whatever connection it comes; the last is for all others,
            too. A tuple is written piece by piece. A function writes what it likes.
        ends: The connection is closed after a reply.
    """

    def __init__(self, *replies: Any, ends: bool = False) -> None:
        self.replies, self.ends = replies, ends
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.connections = self.open = self.port = self.written = 0
        self.tasks: list[Any] = []
        self.stop: Callable[[], None]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        self.connections += 1
        self.open += 1
        with suppress(asyncio.IncompleteReadError, OSError):  # the client has left
            await self.answer(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.open -= 1

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
            reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
            if callable(reply):
                await reply(self, writer)
            else:
                for piece in (reply,) if isinstance(reply, bytes) else reply:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
            if self.ends:
                return


class Tunnel(Server):
    """A proxy that answers a ``CONNECT``, and then relays bytes to a server on this machine."""

    def __init__(self, server: Server, *consent: bytes) -> None:
        super().__init__(consent)
        self.server = server

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in self.replies[0]:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if self.server.port:
            there = await asyncio.open_connection("127.0.0.1", self.server.port)
            await asyncio.gather(relayed(reader, there[1]), relayed(there[0], writer))


async def relayed(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
    with suppress(OSError):
        await sink.wait_closed()


@asynccontextmanager
async def listening(server: Server, tls: Any = None) -> AsyncIterator[None]:
    """Start a scripted server; it stops when its clients have left."""
    started = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port, server.stop = started.sockets[0].getsockname()[1], started.close
    try:
        yield
    finally:
        started.close()
        await asyncio.gather(*server.tasks)


@asynccontextmanager
async def client_of(
    server: Server, host: str = "127.0.0.1", tls: Any = None, headers: Any = dict
) -> AsyncIterator[Callable[..., Any]]:
    """From nothing to a response of that server, as often as it is called."""
    async with listening(server, tls):
        url = f"{'https' if tls else 'http'}://{host}:{server.port}/v1"
        connections = Connections(lambda: asyncio.sleep(0))
        client = HttpClient(url, api_key=None, headers=headers, connections=connections)
        try:
            yield lambda body=None: client.request("POST", url, seconds=5, body=body)
        finally:
            await client.aclose()


async def body_of(request: Callable[..., Any], body: bytes | None = None) -> bytes:
    async with request(body) as response:
        return bytes(await response.read(5))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def hang_up(server: Server, writer: asyncio.StreamWriter) -> None:
    writer.close()


def flood(beginning: bytes, repeated: bytes) -> Any:
    """A reply without end."""

    async def write(server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(repeated)
            await writer.drain()
            server.written += len(repeated)
            await asyncio.sleep(0)

    return write


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


# -- Bodies --------------------------------------------------------------------------------------


def chunks(size: str = "{:x}", trailers: bytes = b"") -> bytes:
    """The body in chunks, the first of ten bytes."""
    pieces = [
        size.format(len(piece)).encode() + b"\r\n" + piece + b"\r\n"
        for piece in (BODY[:10], BODY[10:])
    ]
    return b"".join([CHUNKED, *pieces, size.format(0).encode(), b"\r\n", trailers, b"\r\n"])


def long(data: bytes, *headers: bytes, http: bytes = HTTP) -> bytes:
    """A response with a length."""
    return b"\r\n".join([http + b"Content-Length: %d" % len(data), *headers, b"", data])


ZIPPED, TWICE = gzip.compress(BODY), gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])
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
        long(gzip.compress(b""), b"Content-Encoding: gzip"),
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


# -- TLS, back-pressure, proxies -----------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``wire.tls`` makes it, for a name, too."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=x", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    files = ["-keyout", str(path), "-out", str(path.with_name("cert.pem")), "-days", "2"]
    subprocess.run([openssl, *made, *names, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_name("cert.pem").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a server has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def _trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ssl.create_default_context(cafile=str(certificate.with_name("cert.pem")))
    monkeypatch.setattr(dialing, "_certificates", lambda: made)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("head", [HTTP + b"Content-Length: %d\r\n\r\n" % len(BIG), HTTP + b"\r\n"])
async def test_a_server_waits_for_its_reader(head: bytes, is_encrypted: bool, tls: Any) -> None:
    async def write(server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for at in range(0, len(BIG), 65536):
            writer.write(BIG[at : at + 65536])
            await writer.drain()
            server.written = at
        if head == HTTP + b"\r\n":
            writer.close()

    server = Server(write)
    ask = client_of(server, tls=tls if is_encrypted else None)
    async with ask as request, request() as response:
        before = -1
        while before != server.written:
            before = server.written
            await asyncio.sleep(0.3)
        assert 0 < before < 20_000_000, "what the two sockets hold"
        assert response._connection._unread < 1_000_000
        assert await response.read(20) == BIG


@pytest.mark.usefixtures("_trusted")
async def test_an_encrypted_connection_is_used_again(tls: Any) -> None:
    server = Server(chunks(), (WHOLE[:9], WHOLE[9:]))
    async with client_of(server, tls=tls) as request:
        assert await body_of(request) == BODY
        assert await body_of(request) == b"hi"
        assert server.connections == server.open == 1
    assert not server.open


@pytest.mark.parametrize(("host", "is_known"), [("127.0.0.1", False), ("localhost", True)])
async def test_another_certificate_is_refused(
    host: str, is_known: bool, tls: Any, request: pytest.FixtureRequest
) -> None:
    if is_known:
        request.getfixturevalue("_trusted")
    server = Server(WHOLE)
    async with client_of(server, host=host, tls=tls) as ask:
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await body_of(ask)
    assert not server.requests


CONSENT = b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n"


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("consent", [(CONSENT,), (HINTS, b"HTTP/1.0", CONSENT[8:])])
async def test_a_tunnel_through_a_proxy(
    consent: tuple[bytes, ...], scheme: str, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(WHOLE)
    tunnel = Tunnel(server, *consent)
    async with listening(tunnel, tls if scheme == "https" else None):
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://jane:p%40ss@127.0.0.1:{tunnel.port}")
        async with client_of(server, host=NAME, tls=tls) as request:
            assert [await body_of(request) for _ in range(2)] == [b"hi", b"hi"]
    (asked,) = tunnel.requests
    shown = b"Proxy-Authorization: Basic " + b64encode(b"jane:p@ss")
    assert asked.startswith(b"CONNECT %s:%d HTTP/1.1\r\n" % (NAME.encode(), server.port))
    assert shown in asked.split(b"\r\n")
    assert server.connections == 1 and b"Proxy-Auth" not in b"".join(server.requests)
    assert server.requests[0].startswith(b"POST /v1 HTTP/1.1\r\n")


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    ("consent", "error", "text"),
    [
        ((), BrokenConnectionError, "without a response"),
        ((b"SSH-2.0\r\n",), BrokenConnectionError, "no HTTP"),
        ((b"HTTP/1.1 407 X\r\n\r\n",), BrokenConnectionError, "the proxy refuses .* HTTP 407"),
        ((CONSENT,), UnreachableError, "through the proxy"),  # and closes
        ((CONSENT, b"no TLS"), UnreachableError, "through the proxy"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel(
    consent: tuple[bytes, ...],
    error: type[OSError],
    text: str,
    tls: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tunnel, server = Tunnel(Server(), *consent), Server(WHOLE)
    async with listening(tunnel):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{tunnel.port}")
        async with client_of(server, host=NAME, tls=tls) as request:
            with pytest.raises(error, match=text):
                await body_of(request)
    assert not server.connections and tunnel.connections == 1


async def test_a_proxy_for_what_is_not_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = Server(WHOLE), Server(WHOLE)
    async with listening(proxy):
        monkeypatch.setenv("HTTP_PROXY", f"http://jane:p%40ss@127.0.0.1:{proxy.port}")
        async with client_of(server, host=NAME) as request:
            assert [await body_of(request) for _ in range(2)] == [b"hi", b"hi"]
    lines = proxy.requests[0].split(b"\r\n")
    host = b"%s:%d" % (NAME.encode(), server.port)
    assert lines[0] == b"POST http://%s/v1 HTTP/1.1" % host and b"Host: " + host in lines
    assert b"Proxy-Authorization: Basic " + b64encode(b"jane:p@ss") in lines
    assert proxy.connections == 1 and not server.connections


# -- Names, idle connections, headers ------------------------------------------------------------


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every name is this machine's; the names that were looked up."""
    seen: list[Any] = []

    async def look_up(_: object, host: str, port: int, **__: object) -> list[Any]:
        seen.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)
    return seen


async def test_a_name_is_looked_up_once_for_several_connections(lookups: list[Any]) -> None:
    server = Server(WHOLE, ends=True)
    async with client_of(server, host=NAME) as request:
        assert [await body_of(request) for _ in range(3)] == [b"hi"] * 3
    assert server.connections == 3 and lookups == [NAME]


async def test_it_is_looked_up_again_after_a_failure(lookups: list[Any]) -> None:
    server = Server(WHOLE, ends=True)
    async with client_of(server, host=NAME) as request:
        assert await body_of(request) == b"hi"
        server.stop()
        for _ in range(2):
            with pytest.raises(UnreachableError, match=f"{NAME}:{server.port}: "):
                await body_of(request)
    assert lookups == [NAME] * 2, "the first failure was of the known address"


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)
    async with client_of(Server(WHOLE), host=NAME) as request:
        with pytest.raises(UnreachableError, match=f"{NAME}:.*not known"):
            await body_of(request)


@pytest.mark.parametrize("host", ["a..invalid", "a" * 64 + ".invalid", "\u00e4" * 64 + ".invalid"])
async def test_a_name_that_is_none(host: str) -> None:
    async with client_of(Server(WHOLE), host=host) as request:
        with pytest.raises(UnreachableError):
            await body_of(request)


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEPALIVE_SECONDS", 0.3)
    server = Server(WHOLE)
    async with client_of(server) as request:
        assert await asyncio.gather(*(body_of(request) for _ in range(3))) == [b"hi"] * 3
        assert server.open == 3
        await until(lambda: not server.open)
        assert await body_of(request) == b"hi"
    assert server.connections == 4


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_nothing_is_left_open(is_encrypted: bool, tls: Any) -> None:
    """What is left open is a ResourceWarning when it is collected, which is an error here."""
    server = Server(*[WHOLE] * 4, CHUNKED)
    async with client_of(server, tls=tls if is_encrypted else None) as request:
        assert await asyncio.gather(*(body_of(request) for _ in range(3))) == [b"hi"] * 3
        async with request():
            pass  # read by nobody
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await body_of(request)
        await until(lambda: server.open <= 3)
    assert not server.open
    gc.collect()


@pytest.mark.parametrize(
    ("name", "value"),
    [("A", "b\r\nC: d"), ("A", "b\nC: d"), ("A", "b\rC"), ("A", "b\0"), ("A: b\r\nC", "d")],
)
async def test_a_header_with_a_line_break_is_not_sent(name: str, value: str) -> None:
    server = Server(WHOLE)
    async with client_of(server, headers=lambda: {name: SecretStr(value)}) as request:
        with pytest.raises(ValueError, match="line break"):
            await body_of(request)
    assert not server.connections
