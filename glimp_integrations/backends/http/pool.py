"""The pool of connections: which of them may carry another request.

HTTP/1.1 has no numbers for requests: what comes next on a connection is the response to the next
request. So a response that nobody asked for, or that came late, would be given to whoever uses the
connection next, which may be another conversation. A connection on which a server has spoken
between two requests, or sent what makes no sense, carries no other request.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import Any

from glimp_integrations.backends.http.connection import Connection
from glimp_integrations.backends.http.connections import KEEPALIVE_SECONDS
from glimp_integrations.backends.http.dialing import Address

__all__ = ["Pool"]


class Pool:
    """Connections that carry no request now, by their address. Lives on one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[tuple[float, Connection]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, address: Address) -> Connection | None:
        """The connection that was used last; ``None``: there is none.

        One on which something has come, or that was closed, is none. What has come and was not
        read yet is looked for, too.
        """
        idle = self._idle.get(address, [])
        while idle:
            since, connection = idle.pop()
            is_new = time.monotonic() - since < KEEPALIVE_SECONDS
            if is_new and connection.is_open and not _has_data(connection.transport):
                return connection
            connection.close()
        return None

    def give_back(self, address: Address, connection: Connection) -> None:
        """Keep a connection for another request, for some seconds."""
        connection.release()
        self._idle.setdefault(address, []).append((time.monotonic(), connection))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(KEEPALIVE_SECONDS, self._drop_old)

    async def aclose(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.close()
        await asyncio.sleep(0)  # in which the loop closes them

    def _drop_old(self) -> None:
        self._timer = None
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        for address, idle in list(self._idle.items()):
            for since, connection in idle:
                if since <= oldest:
                    connection.close()
            self._idle[address] = [one for one in idle if one[0] > oldest]
            if not self._idle[address]:
                del self._idle[address]
        if self._idle:
            next_one = min(idle[0][0] for idle in self._idle.values())
            wait = max(0.1, next_one + KEEPALIVE_SECONDS - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._drop_old)


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
