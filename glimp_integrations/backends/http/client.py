"""HTTP to one server: requests, responses, and limits for what a server may send.

A cancelled request's connection is closed at once. Whatever goes wrong is raised as an ``OSError``
or as one of this module's errors; ``errors`` translates both.
"""

from __future__ import annotations

import asyncio
import math
import re
import string
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from glimp_integrations.backends.http.connection import BrokenConnectionError, Connection
from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.dialing import (
    Address,
    Dialer,
    UnreachableError,
    basic_authorization,
)
from glimp_integrations.backends.http.pool import Pool
from glimp_integrations.errors import ConfigError

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
# What every request says, unless its headers say something else.
_USUAL_HEADERS = {
    "Accept": "*/*",
    # Bodies are unpacked here, piece by piece and up to a limit; nobody is asked to pack them.
    "Accept-Encoding": "identity",
    "User-Agent": "glimp-integrations",
}
_NO_HEADER = re.compile(r"[\r\n\0]")


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
        self._read_seconds = read_seconds
        self._authorization = _authorization(base_url, api_key)
        self._headers = headers
        self._connections = connections
        self._proxy = _proxy(base_url)
        self._dialer = Dialer(self._proxy, connect_seconds)
        self._pool = Pool()
        self._used: set[Connection] = set()

    async def aclose(self) -> None:
        """Close all connections, also those that carry a request."""
        for connection in tuple(self._used):
            connection.break_off("this client was closed")
        await self._pool.aclose()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, seconds: float, body: bytes | None = None
    ) -> AsyncGenerator[Response]:
        """Send a request, and wait for the beginning of the response.

        Redirects are not followed: the conversation, and maybe the key, would go to whatever
        address a reply names.

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
            OSError: The request failed.
        """
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            target, headers, data = await self._written(method, url, body)
            address = Address.of(target)
            sent = self._as_sent(method, target, address, headers, data)
            connection, since = await self._answered(address, sent)
        try:
            if method == "GET":  # the others may take as long as a model
                self._connections.answered(time.perf_counter() - since)
            response = Response(connection.headers, connection, silence=self._read_seconds)
            if not 200 <= connection.status < 300:
                beginning = await response.beginning(seconds)
                raise StatusError(connection.status, connection.headers, beginning)
            yield response
        except Exception as error:
            # A refusal, too: a proxy sends one (408) when a connection was idle for too long, and
            # it is read as the answer to the request that crosses it. But nobody says unasked that
            # a route is missing.
            if not (isinstance(error, StatusError) and error.status in _MISSING_ROUTE):
                connection.is_reusable = False
            raise
        finally:
            if connection.is_over and connection.is_reusable and connection.is_open:
                self._used.discard(connection)
                self._connections.given_back()
                self._pool.give_back(address, connection)
            else:
                self._drop(connection)

    async def _answered(self, address: Address, request: bytes) -> tuple[Connection, float]:
        """A connection on which the response of a request has begun; and when it was sent.

        The request is sent again where its connection turns out to be over. A server may close a
        connection between two requests at the moment the second is sent. It has not answered it
        then, so another connection takes it. This is not a failure of the server, and no retry
        that a user has to allow.
        """
        closed = 0
        while True:
            connection = self._pool.take(address)
            if connection is None:
                connection = await self._dialer.dial(address)
            self._used.add(connection)
            self._connections.lent(was_used=connection.was_used)
            since = time.perf_counter()
            try:
                connection.send(request)
                async with asyncio.timeout(self._read_seconds):
                    await connection.head()
            except BrokenConnectionError:
                self._drop(connection)
                if not connection.was_used or connection.is_heard or closed == _CLOSED_CONNECTIONS:
                    raise
                closed += 1
            except BaseException:
                self._drop(connection)
                raise
            else:
                return connection, since

    def _drop(self, connection: Connection) -> None:
        self._used.discard(connection)
        connection.close()

    async def _written(
        self, method: str, url: str, body: bytes | None
    ) -> tuple[str, dict[str, str], bytes | None]:
        """The address, headers and body of a request as they are sent."""
        secrets = {**self._authorization, **self._headers()}
        headers = {name: value.get_secret_value() for name, value in secrets.items()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return f"{url}?{self._query}" if self._query else url, headers, body

    def _as_sent(
        self,
        method: str,
        url: str,
        address: Address,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> bytes:
        """A whole request, as HTTP/1.1 has it.

        Raises:
            ValueError: A header would end before its end.
        """
        parts = urlsplit(url)
        place = parts.path or "/"
        place = f"{place}?{parts.query}" if parts.query else place
        usual = 443 if address.scheme == "https" else 80
        host = address.authority.removesuffix(f":{usual}")
        every = {"Host": host, **_USUAL_HEADERS}
        if self._proxy is not None and address.scheme == "http":
            place = f"http://{host}{place}"
            if (shown := basic_authorization(self._proxy.get_secret_value())) is not None:
                every["Proxy-Authorization"] = shown.get_secret_value()
        given = {name.lower() for name in headers}
        every = {name: value for name, value in every.items() if name.lower() not in given}
        every |= headers
        if body is not None:
            every["Content-Length"] = str(len(body))
        for name, value in every.items():
            if _NO_HEADER.search(name) or _NO_HEADER.search(value):
                raise ValueError(f"the header {name!r} has a line break")
        lines = [f"{method} {quote(place, safe=string.punctuation)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in every.items()]
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Response:
    """A response whose headers have come.

    Args:
        headers: Its headers.
        connection: What it comes on; ``None`` where a subclass reads it.
        silence: How many seconds the server may be silent; ``None`` for no limit.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        connection: Connection | None = None,
        *,
        silence: float | None = None,
    ) -> None:
        self._connection, self._silence = connection, silence
        self._pieces: Iterator[bytes] = iter(())  # of the last packet
        coding = headers.get("Content-Encoding", "").strip().lower()
        self._window = _CODINGS.get(coding)
        self._unpacker = None if self._window is None else zlib.decompressobj(self._window)
        if self._window is None and coding not in ("", "identity"):
            raise ValueError(f"the body is encoded as {coding[:40]!r}, which was not asked for")

    def distrust(self) -> None:
        """Let no other request have the connection."""
        if self._connection is not None:
            self._connection.is_reusable = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, unpacked. Pieces are not empty; for errors see :meth:`next`."""
        while data := await self.next():
            yield data

    async def next(self) -> bytes:
        """The next piece of the body, unpacked; empty at its end.

        Raises:
            OSError: The connection broke.
            zlib.error: It cannot be unpacked.
        """
        return await (self._packet() if self._unpacker is None else self._piece())

    async def feed(self, take: Callable[[bytes], bool]) -> bool:
        """Give the pieces of the body to a function as they come, until it returns ``False``.

        It is called where data arrives if that is possible, in the context of this call: waking up
        a task, and going down to where it waits, takes longer than reading a token.

        Args:
            take: Called with a piece; whether it wants more. What it raises is raised here.

        Returns:
            Whether there may be more; ``False`` at the end of the body.

        Raises:
            Exception: See :meth:`next`.
        """
        connection = self._connection
        if connection is not None and self._unpacker is None and self._silence is None:
            context = copy_context()
            if await _fed_on_arrival(connection, lambda data: context.run(take, data)):
                return True
        while data := await self.next():
            if not take(data):
                return True
        return False

    async def _packet(self) -> bytes:
        assert self._connection is not None
        if self._silence is None:
            return await self._connection.read()
        async with asyncio.timeout(self._silence):
            return await self._connection.read()

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


async def _fed_on_arrival(connection: Connection, take: Callable[[bytes], bool]) -> bool:
    """Whether a function that was given the pieces of a body as they came wants no more.

    ``False``: the body has ended, whole or not, and all of it was given.
    """
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def arrived() -> None:
        if over.done():  # it is told; or the call is cancelled
            return
        failure: Exception | None = None
        wants_no_more = False
        try:
            data = connection.take()
            wants_no_more = bool(data) and not take(data)
        except Exception as error:
            failure = error
        if over.done():  # cancelled by what was called
            return
        if failure is not None:
            over.set_exception(failure)
        elif wants_no_more or connection.has_ended:
            over.set_result(wants_no_more)

    connection.listener = arrived
    try:
        arrived()  # what is here already
        return await over
    finally:
        connection.listener = None


def _authorization(base_url: str, api_key: SecretStr | None) -> dict[str, SecretStr]:
    if (basic := basic_authorization(base_url)) is not None:
        return {"Authorization": basic}
    if api_key is not None:
        return {"Authorization": SecretStr(f"Bearer {api_key.get_secret_value()}")}
    return {}


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
