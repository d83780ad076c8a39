"""Connections as they are made, used again and closed: TLS, proxies, names, the pool."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from glimp_integrations.backends.http import dialing, pool
from glimp_integrations.backends.http.client import HttpClient, UnreachableError
from glimp_integrations.backends.http.connection import BrokenConnectionError
from glimp_integrations.backends.http.connections import Connections
from wire.raw_server import (
    BIG,
    BODY,
    CHUNKED,
    HINTS,
    HTTP,
    NAME,
    WHOLE,
    Server,
    Tunnel,
    body_of,
    chunks,
    client_of,
    hang_up,
    listening,
    until,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_proxies")]


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


# -- Closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", [b"", HTTP, CHUNKED + b"5\r\nhello\r\n"])
async def test_closing_ends_what_is_waited_for(beginning: bytes) -> None:
    async def begin(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await over.wait()

    async def ask() -> None:
        async with client.request("POST", url, seconds=20) as response:
            await response.read(20)

    server, over = Server(begin), asyncio.Event()
    async with listening(server):
        url = f"http://127.0.0.1:{server.port}/v1"
        connections = Connections(lambda: asyncio.sleep(0))
        client = HttpClient(url, api_key=None, headers=dict, connections=connections)
        asking = asyncio.create_task(ask())
        await until(lambda: server.requests)
        await asyncio.sleep(0.1)
        await client.aclose()
        with pytest.raises(BrokenConnectionError, match="this client was closed"):
            await asyncio.wait_for(asking, 5)
        over.set()


async def test_a_server_that_always_closes_is_given_up() -> None:
    server = Server(WHOLE, WHOLE, WHOLE, WHOLE, hang_up)
    async with client_of(server) as request:
        both = [asyncio.create_task(body_of(request)) for _ in range(4)]
        assert await asyncio.gather(*both) == [b"hi"] * 4
        with pytest.raises(BrokenConnectionError, match="without a response"):
            await body_of(request)
    assert len(server.requests) == 4 + 3, "two more attempts, and no request for ever"
