"""Making a connection: the address of a name, TCP, a proxy's consent, TLS."""

from __future__ import annotations

import asyncio

# Looking up a name imports it, and a fork must not come in between.
import encodings.idna  # noqa: F401
import socket
import ssl
import time
from base64 import b64encode
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs
from pydantic import SecretStr

from glimp_integrations.backends.http.connection import BrokenConnectionError, Connection
from glimp_integrations.forks import LOADING

__all__ = ["Address", "Dialer", "UnreachableError", "basic_authorization"]

_KNOWN_SECONDS = 10.0
"""How long the address of a name is kept: every stream has a connection of its own."""
_MOST_KNOWN = 100
_OTHER_FAMILY_SECONDS = 0.25  # RFC 8305, 5: "Connection Attempt Delay"
_CONSENT = 200


class UnreachableError(OSError):
    """No connection could be made."""


class Address(NamedTuple):
    """Where a server is.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: A name, or an IP address without brackets.
        port: Of TCP.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """The address in a URL."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not host.isascii():
            with suppress(UnicodeError):  # it is no name, as looking it up will say
                host = host.encode("idna").decode()
        return cls(parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80))

    @property
    def authority(self) -> str:
        """Host and port, as a ``CONNECT`` request has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Dialer:
    """Makes connections.

    Args:
        proxy: The URL of the proxy to go through, if any.
        seconds: How long it may take; ``None`` for no limit.
    """

    def __init__(self, proxy: SecretStr | None, seconds: float | None) -> None:
        self._proxy = proxy
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None
        self._known: dict[tuple[str, int], tuple[float, asyncio.Future[Any] | None]] = {}

    async def dial(self, address: Address) -> Connection:
        """A new connection.

        Raises:
            UnreachableError: None can be made.
            BrokenConnectionError: The proxy does not let it through.
            TimeoutError: It takes too long.
        """
        proxy = self._proxy
        first = address if proxy is None else Address.of(proxy.get_secret_value())
        # Outside of the time limit: it is this machine's, and happens once.
        tls = await self._trusted() if "https" in (address.scheme, first.scheme) else None
        async with asyncio.timeout(self._seconds):
            connection = await self._connected(first, tls if first.scheme == "https" else None)
            if proxy is None or tls is None or address.scheme == "http":
                return connection
            return await self._tunnel(connection, proxy, address, tls)

    async def _trusted(self) -> ssl.SSLContext:
        if self._tls is None:
            # Takes a quarter of a second, in which the loop serves other calls.
            self._tls = await asyncio.to_thread(_certificates)
        return self._tls

    async def _connected(self, address: Address, tls: ssl.SSLContext | None) -> Connection:
        loop = asyncio.get_running_loop()
        known = (address.host, address.port)
        try:
            sock = await aiohappyeyeballs.start_connection(
                await self._found(*known),
                happy_eyeballs_delay=_OTHER_FAMILY_SECONDS,
                interleave=1,
            )
            name = address.host if tls is not None else None
            _, connection = await loop.create_connection(
                Connection, sock=sock, ssl=tls, server_hostname=name
            )
        except BaseException as error:
            self._known.pop(known, None)  # it may be another by now, also after a time-out
            # UnicodeError: there can be no such name.
            if isinstance(error, TimeoutError) or not isinstance(error, OSError | UnicodeError):
                raise
            raise UnreachableError(f"{address.authority}: {error}") from None
        return connection

    async def _found(self, host: str, port: int) -> Any:
        """The addresses of a name, as ``getaddrinfo`` has them."""
        since, found = self._known.get((host, port), (0.0, None))
        if found is None or time.monotonic() - since > _KNOWN_SECONDS or found.cancelled():
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            # Shared: hundreds of conversations may want their first connection at the same time.
            found = asyncio.ensure_future(_looked_up(host, port))
            found.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._known[host, port] = time.monotonic(), found
        # Whoever waits no longer must not cancel it for the others.
        return await asyncio.shield(found)

    async def _tunnel(
        self, connection: Connection, proxy: SecretStr, address: Address, tls: ssl.SSLContext
    ) -> Connection:
        """An encrypted connection through a proxy that connects to the server (RFC 9110, 9.3.6)."""
        lines = [f"CONNECT {address.authority} HTTP/1.1", f"Host: {address.authority}"]
        if (secret := basic_authorization(proxy.get_secret_value())) is not None:
            lines.append(f"Proxy-Authorization: {secret.get_secret_value()}")
        inside = Connection()
        try:
            connection.send("\r\n".join([*lines, "", ""]).encode())
            await connection.head()
            if connection.status != _CONSENT:
                raise BrokenConnectionError(
                    f"the proxy refuses the connection: HTTP {connection.status}"
                )
            transport = await asyncio.get_running_loop().start_tls(
                connection.transport, inside, tls, server_hostname=address.host
            )
        except BaseException as error:
            connection.close()
            says_it_already = isinstance(error, TimeoutError | BrokenConnectionError)
            if says_it_already or not isinstance(error, OSError):
                raise
            raise UnreachableError(f"{address.authority}, through the proxy: {error}") from None
        if transport is None:
            raise UnreachableError(f"{address.authority}, through the proxy: it was closed")
        inside.connection_made(transport)
        return inside


def basic_authorization(url: str) -> SecretStr | None:
    """The header that shows user name and password of a URL; ``None`` without them."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    shown = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return SecretStr("Basic " + b64encode(shown.encode()).decode())


async def _looked_up(host: str, port: int) -> Any:
    kind = socket.SOCK_STREAM
    try:
        # An IP address is none to look up, which would take a thread.
        return socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)


def _certificates() -> ssl.SSLContext:
    """The certificates to trust: the system's, and those of certifi.

    Pythons for macOS come without certificates; company networks have their own in the system.
    """
    with LOADING:
        import certifi

    tls = ssl.create_default_context()
    tls.load_verify_locations(certifi.where())
    return tls
