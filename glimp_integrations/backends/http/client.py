"""HTTP to one server: requests, responses, and limits for what a server may send.

Made of aiohttp, which closes a cancelled request's connection at once. Whatever goes wrong is
raised as the HTTP library's error or as one of this module's; ``errors`` translates both.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.pool import Carrier, connector
from glimp_integrations.backends.http.tap import Tap
from glimp_integrations.errors import ConfigError
from glimp_integrations.forks import LOADING

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "CONNECT_SECONDS",
    "ERROR_BYTES",
    "MAX_BODY_BYTES",
    "GivenClientError",
    "HttpClient",
    "Response",
    "StatusError",
    "TooLargeError",
    "UnreachableError",
]

# Three attempts with this timeout, and the pauses between them, stay under ten seconds.
CONNECT_SECONDS = 2.5
MAX_BODY_BYTES = 64 * 1024 * 1024
"""The longest body that is read as a whole. The token ids of a long prompt take a few MB."""
ERROR_BYTES = 65536
"""How much is read of an error. It takes a few lines; more is a web page or an attack."""
# Bytes that are unpacked at once: a small packet may unpack to gigabytes. Reading so many single
# line ends takes some hundredths of a second, in which the loop serves no other call.
_UNPACKED_BYTES = 65536
# The end of the body mostly comes in the packet of the last event. A server that does not send it
# within this many seconds costs a new connection.
_END_SECONDS = 0.25
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_CODINGS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class StatusError(Exception):
    """A response whose status says that the request failed.

    Attributes:
        status: The HTTP status.
        headers: The response's headers; names are looked up in any case.
        body: The beginning of its body, unpacked; empty if it could not be read.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


class TooLargeError(Exception):
    """A body is longer than what is read of it."""


class UnreachableError(OSError):
    """No connection could be made."""


class GivenClientError(Exception):
    """A user's own client failed before there was a response."""


_MISSING_ROUTE = (404, 405, 501)
_CLOSED_CONNECTIONS = 2  # that a request may meet one after the other


class HttpClient:
    """Requests to one server, with its credentials. Lives on the I/O loop.

    Args:
        base_url: Such as ``"http://gpu1:8000/v1"``. A user name and password in it become a Basic
            ``Authorization`` header, and a query is added to every request.
        api_key: Sent as a bearer token.
        headers: Returns the headers to add to a request that is about to be sent.
        connections: Told about connections and round trips.
        connect_seconds: How long a new connection may take; ``None`` for no limit.
        read_seconds: How long the server may be silent; ``None`` for no limit but a request's own.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: SecretStr | None,
        headers: Callable[[], Mapping[str, SecretStr]],
        connections: Connections,
        connect_seconds: float | None = CONNECT_SECONDS,
        read_seconds: float | None = None,
    ) -> None:
        self._query = urlsplit(base_url).query
        self._connect_seconds, self._read_seconds = connect_seconds, read_seconds
        self._authorization = _authorization(base_url, api_key)
        self._headers = headers
        self._connections = connections
        self._proxy = _proxy(base_url)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, seconds: float, body: bytes | None = None
    ) -> AsyncGenerator[Response]:
        """Send a request, and wait for the beginning of the response.

        Args:
            method: ``"GET"`` or ``"POST"``.
            url: Without credentials and query.
            seconds: How long to wait for the response's headers.
            body: JSON to send.

        Yields:
            The response. Its connection is closed at the end, unless its body was read to the end,
            and what was made of it raised nothing.

        Raises:
            StatusError: The status is not one of success.
            TimeoutError: No response began in time.
            aiohttp.ClientError: The request failed.
        """
        session = await self._opened()
        carrier = Carrier(self._connections)
        # Left as it is written, so that its password can be found in errors that quote it.
        proxy = None if self._proxy is None else _url(self._proxy.get_secret_value())

        async def begun() -> aiohttp.ClientResponse:
            with carrier.noted():
                # Redirects: the conversation, and maybe the key, would go to whatever address a
                # reply names.
                return await session.request(
                    method, target, data=data, headers=headers, allow_redirects=False, proxy=proxy
                )

        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                address, headers, data = await self._written(method, url, body)
                target = _url(address)
                raw = await _on_a_live_connection(begun, carrier)
            if method == "GET":  # the others may take as long as a model
                self._connections.answered(time.perf_counter() - carrier.since)
            response: Response | None = None
            try:
                # With a limit for the server's silence, the HTTP library ends a body by itself.
                on_arrival = self._read_seconds is None
                response = Response(raw, self._connections, carrier, on_arrival=on_arrival)
                if not 200 <= raw.status < 300:
                    raise StatusError(raw.status, raw.headers, await response.beginning(seconds))
                yield response
            finally:
                if response is not None:
                    response.leave()
                raw.close()  # no effect on a connection whose response was read to the end
        except Exception as error:
            # A refusal, too: a proxy sends one (408) when a connection was idle for too long, and
            # it is read as the answer to the request that crosses it. But nobody says unasked that
            # a route is missing.
            if not (isinstance(error, StatusError) and error.status in _MISSING_ROUTE):
                carrier.close()
            raise
        finally:
            carrier.give_back()

    async def _written(
        self, method: str, url: str, body: bytes | None
    ) -> tuple[str, dict[str, str], bytes | None]:
        """The address, headers and body of a request as they are sent."""
        secrets = {**self._authorization, **self._headers()}
        headers = {name: value.get_secret_value() for name, value in secrets.items()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return f"{url}?{self._query}" if self._query else url, headers, body

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Takes a quarter of a second, in which the loop serves other calls.
            aiohttp, tls = await asyncio.to_thread(_load)
            if self._session is None:  # another request was as quick
                self._session = aiohttp.ClientSession(
                    connector=connector(tls),
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        sock_connect=self._connect_seconds,
                        sock_read=self._read_seconds,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"Accept-Encoding": "identity", "User-Agent": "glimp-integrations"},
                    # Unpacked here instead, piece by piece and up to a limit.
                    auto_decompress=False,
                )
        return self._session


class Response:
    """A response whose headers have come.

    Args:
        raw: The HTTP library's response.
        connections: Told when the connection can carry another request.
        carrier: The connection.
        on_arrival: Nothing happens to the body but what the connection brings, so it may be looked
            at there.
    """

    def __init__(
        self,
        raw: aiohttp.ClientResponse,
        connections: Connections,
        carrier: Carrier,
        *,
        on_arrival: bool = False,
    ) -> None:
        self._raw, self._on_arrival = raw, on_arrival
        self.distrust = carrier.close
        self._connections = connections
        self._over = False
        self._failure: Exception | None = None
        self._salvaged: Iterator[bytes] = iter(())  # came before the failure
        self._pieces: Iterator[bytes] = iter(())  # of the last packet
        coding = raw.headers.get("Content-Encoding", "").strip().lower()
        self._window = _CODINGS.get(coding)
        self._unpacker = None if self._window is None else zlib.decompressobj(self._window)
        if self._window is None and coding not in ("", "identity"):
            raise ValueError(f"the body is encoded as {coding[:40]!r}, which was not asked for")
        transport = carrier.transport
        self._tap = None if transport is None else Tap(transport, self._note_end)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, unpacked. Pieces are not empty; for errors see :meth:`next`."""
        while data := await self.next():
            yield data

    async def next(self) -> bytes:
        """The next piece of the body, unpacked; empty at its end.

        Raises:
            aiohttp.ClientError: The connection broke.
            zlib.error: It cannot be unpacked.
        """
        data = await (self._packet() if self._unpacker is None else self._piece())
        if not data and not self._over:
            self._over = True
            self._connections.given_back(self._raw)
        return data

    async def feed(self, take: Callable[[bytes], bool]) -> bool:
        """Give the pieces of the body to a function as they come, until it returns ``False``.

        It is called where data arrives if that is possible, in the context of this call.

        Args:
            take: Called with a piece; whether it wants more. What it raises is raised here.

        Returns:
            Whether there may be more; ``False`` at the end of the body.

        Raises:
            Exception: See :meth:`next`.
        """
        context = copy_context()
        while not await self._fed_on_arrival(lambda data: context.run(take, data)):
            data = await self.next()
            if not data:
                return False
            if not take(data):
                return True
        return True

    async def _fed_on_arrival(self, take: Callable[[bytes], bool]) -> bool:
        """Whether a function that was given pieces as they came wants no more.

        ``False``: something else has happened, which :meth:`next` will meet; or it cannot be done.
        """
        if self._tap is None or self._unpacker is not None or not self._on_arrival:
            return False
        content, tap = self._raw.content, self._tap
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        failure: Exception | None = None

        def arrived() -> None:
            nonlocal failure
            if over.done():  # the call is cancelled
                return
            wants_no_more = ends = False
            try:
                self._note_end()
                # What comes before a failure has to be got out of the library in another way.
                ends = content.exception() is not None
                if not ends and (data := content.read_nowait()):
                    wants_no_more = not take(data)
                ends = ends or content.is_eof()
            except Exception as error:
                failure, ends = error, True
            if (wants_no_more or ends) and not over.done():
                over.set_result(wants_no_more)

        tap.arrived = arrived
        try:
            arrived()  # what is here already
            is_over = await over
        finally:
            tap.arrived = self._note_end
            self._note_end()
        if failure is not None:
            raise failure
        return is_over

    def _note_end(self) -> None:
        """Have whoever waits for the body know that its connection is lost.

        The HTTP library does not tell in every case, such as a chunk whose size is no number.
        """
        content, is_lost = self._raw.content, self._tap is not None and self._tap.is_lost
        if is_lost and not content.is_eof() and content.exception() is None:
            import aiohttp

            content.set_exception(aiohttp.ClientPayloadError("the body is not complete"))

    def leave(self) -> None:
        """Nothing more is read here: the connection is the HTTP library's alone again."""
        if self._tap is not None:
            self._tap.remove()

    async def _packet(self) -> bytes:
        if self._failure is None:
            try:
                return await self._raw.content.readany()
            except Exception as error:
                # The HTTP library forgets what came before a failure and was not read yet, and has
                # no public way to it. A whole answer may be in it.
                self._failure = error
                self._salvaged = iter(tuple(getattr(self._raw.content, "_buffer", ())))
        for data in self._salvaged:
            return data
        raise self._failure

    async def _piece(self) -> bytes:
        # Many pieces of one packet must not keep the loop from other calls.
        await asyncio.sleep(0)
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
            data = await self._packet()
            if not data:
                return b""
            self._pieces = self._unpacked(data)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        if self._unpacker is None or self._window is None:
            yield data
            return
        while data:
            if self._unpacker.eof:
                # Another member, which gzip allows; anything else is an error. The old unpacker
                # would keep all that comes after its end.
                self._unpacker = zlib.decompressobj(self._window)
            yield self._unpacker.decompress(data, _UNPACKED_BYTES)
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    async def read(self, seconds: float) -> bytes:
        """The whole body.

        Args:
            seconds: How long it may take.

        Raises:
            TooLargeError: It is longer than ``MAX_BODY_BYTES``.
            TimeoutError: It took longer.
        """
        body = bytearray()
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            async for chunk in self.chunks():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLargeError(f"a body of more than {MAX_BODY_BYTES:,} bytes")
        return bytes(body)

    async def beginning(self, seconds: float) -> bytes:
        """The beginning of the body of an error; what can be read of it within ``seconds``."""
        body = bytearray()
        with suppress(Exception):  # else the status alone must do
            async with asyncio.timeout(min(seconds, CONNECT_SECONDS)):
                async for chunk in self.chunks():
                    body += chunk
                    if len(body) > ERROR_BYTES:
                        break
        return bytes(body[: ERROR_BYTES + 1])

    async def drain(self) -> None:
        """Read on to the end of the body for a moment, so that its connection stays usable.

        HTTP/1.1 needs the body's last bytes before a connection can carry another request.
        """
        # The answer is complete: whatever goes wrong here costs a connection, and not the answer.
        with suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                async for _ in self.chunks():
                    pass


def _load() -> tuple[Any, ssl.SSLContext]:
    """The HTTP library, and the certificates to trust: the system's, and those of certifi.

    Pythons for macOS come without certificates; company networks have their own in the system.
    """
    with LOADING:
        import aiohttp
        import certifi

    tls = ssl.create_default_context()
    tls.load_verify_locations(certifi.where())
    return aiohttp, tls


def _url(text: str) -> Any:
    from yarl import URL

    return URL(text, encoded=True)


async def _on_a_live_connection(
    begun: Callable[[], Awaitable[aiohttp.ClientResponse]], carrier: Carrier
) -> aiohttp.ClientResponse:
    """The response of a request, sent again where its connection turns out to be over.

    A server may close a connection between two requests at the moment the second is sent. It has
    not answered it then, so another connection takes it. This is not a failure of the server, and
    no retry that a user has to allow.
    """
    import aiohttp

    for _ in range(_CLOSED_CONNECTIONS):
        try:
            return await begun()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not carrier.was_used or isinstance(error, aiohttp.ClientConnectorError):
                raise
            carrier.close()
    return await begun()


def _authorization(base_url: str, api_key: SecretStr | None) -> dict[str, SecretStr]:
    parts = urlsplit(base_url)
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        value = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    elif api_key is not None:
        value = f"Bearer {api_key.get_secret_value()}"
    else:
        return {}
    return {"Authorization": SecretStr(value)}


def _proxy(base_url: str) -> SecretStr | None:
    """The proxy that the environment names for this address (``HTTPS_PROXY``, ``NO_PROXY``, ...).

    Looked up once: the HTTP library would do it in a thread for every request.

    Raises:
        ConfigError: It is not an HTTP proxy, or no URL. The message shows none of it, because it
            may hold a password.
    """
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.netloc.rpartition("@")[2]
    if not proxy or parts.hostname in _THIS_MACHINE or proxy_bypass(host):
        return None
    scheme, separator, _ = proxy.partition("://")
    variable = f"{parts.scheme.upper()}_PROXY"
    if separator and scheme.isalnum() and scheme.lower() not in ("http", "https"):
        raise ConfigError(
            f"the environment names a proxy of kind {scheme!r} for "
            f"{parts.scheme} addresses, and only http and https proxies can be used: change "
            f"{variable}, or add {parts.hostname} to NO_PROXY"
        )
    if not _is_proxy(proxy):
        raise ConfigError(
            f"the environment names a proxy for {parts.scheme} addresses that is no URL: write "
            f"http://HOST:PORT or http://USER:PASSWORD@HOST:PORT into {variable}, with the "
            "password percent-encoded (urllib.parse.quote(password, safe='')), or add "
            f"{parts.hostname} to NO_PROXY"
        )
    return SecretStr(proxy)


def _is_proxy(proxy: str) -> bool:
    """Whether user info, host and port can be told apart."""
    try:
        parts = urlsplit(proxy)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0  # reading it raises ValueError for what is no number
            and "@" not in f"{parts.path}{parts.query}{parts.fragment}"
        )
    except ValueError:
        return False
