"""The pool of connections: which of them may carry another request.

HTTP/1.1 has no numbers for requests: what comes next on a connection is the response to the next
request. So a response that nobody asked for, or that came late, would be given to whoever uses the
connection next, which may be another conversation. A connection on which a server has spoken
between two requests, or sent what makes no sense, carries no other request.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from glimp_integrations.backends.http.connections import KEEPALIVE_SECONDS, Connections

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Carrier", "connector"]

_CARRIER: ContextVar[Carrier | None] = ContextVar("glimp_carrier", default=None)


class Carrier:
    """The connection that carries a request; it is held until the response has been looked at.

    The HTTP library would give it to another request with the last byte of the response, before
    anybody can have seen that the response makes no sense.

    Args:
        connections: Told about the connection.

    Attributes:
        was_used: The connection carried another request before: the server may just close it.
        since: When the request got it, in seconds of ``time.perf_counter()``.
    """

    def __init__(self, connections: Connections) -> None:
        self.was_used = False
        self.since = 0.0
        self._connections = connections
        self._connection: Any = None
        self._is_read = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Hold the connection that is used inside."""
        before = _CARRIER.set(self)
        try:
            yield
        finally:
            _CARRIER.reset(before)

    def hold(self, connection: Any, *, was_used: bool) -> None:
        """Called by the pool with every connection that it lends for the request."""
        self._connection, self._is_read, self.was_used = connection, False, was_used
        self._connections.lent(was_used=was_used)
        self.since = time.perf_counter()
        connection.release = self._read

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection itself; ``None`` where it is closed, or not known."""
        transport: asyncio.Transport | None = getattr(self._connection, "transport", None)
        return None if transport is None or transport.is_closing() else transport

    def give_back(self) -> None:
        """Let another request have the connection, if the response was read to its end."""
        connection = self._dropped()
        if connection is not None and self._is_read:
            connection.release()

    def close(self) -> None:
        """Close the connection."""
        connection = self._dropped()
        if connection is not None:
            connection.close()

    def _read(self) -> None:
        self._is_read = True

    def _dropped(self) -> Any:
        connection, self._connection = self._connection, None
        if connection is not None:
            del connection.release  # the library's own is behind it
        return connection


def connector(tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """A pool of connections, without those on which a server has spoken unasked, or has closed.

    The HTTP library keeps what comes between two requests, and takes it for the response to the
    next one. What has come and was not read yet is looked for, too.
    """
    import aiohttp

    lent: WeakSet[Any] = WeakSet()

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **kwargs: Any) -> Any:
            while True:
                pooled = bool(self._conns)
                connection = await super().connect(*args, **kwargs)
                protocol = connection.protocol
                if (
                    not pooled
                    or protocol is None
                    or not (protocol.should_close or _has_data(connection.transport))
                ):
                    was_used = protocol in lent
                    if protocol is not None:
                        lent.add(protocol)
                    if (carrier := _CARRIER.get()) is not None:
                        carrier.hold(connection, was_used=was_used)
                    return connection
                connection.close()

    return Connector(limit=0, ssl=tls, keepalive_timeout=KEEPALIVE_SECONDS)


def _has_data(transport: Any) -> bool:
    """Whether something can be read from a connection, its end included."""
    socket = transport.get_extra_info("socket") if transport is not None else None
    if socket is None or socket.fileno() < 0:
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([socket.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
