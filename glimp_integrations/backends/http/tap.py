"""A connection whose data is looked at where it arrives, so that no task is woken up for it.

Waking up a task, and going down to where it waits, takes longer than reading a token. Where a
token needs nobody's attention, it is read in the callback that the event loop makes for the data.

Source: https://docs.python.org/3/library/asyncio-protocol.html ("Transports and Protocols").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Tap"]


class Tap(asyncio.Protocol):
    """Stands between a connection and the HTTP library, which gets everything first.

    Args:
        transport: The connection.
        arrived: Called after the library was given something, or lost the connection. It must not
            raise.

    Attributes:
        arrived: As above; it may be replaced.
        is_lost: The connection is closed.
    """

    def __init__(self, transport: asyncio.Transport, arrived: Callable[[], None]) -> None:
        self._transport = transport
        self._library: asyncio.BaseProtocol = transport.get_protocol()
        self.arrived = arrived
        self.is_lost = False
        transport.set_protocol(self)

    def remove(self) -> None:
        """Leave the connection to the library, as before."""
        self.arrived = _nothing
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._library)

    def data_received(self, data: bytes) -> None:
        self._library.data_received(data)  # type: ignore[attr-defined]
        self.arrived()

    def eof_received(self) -> bool | None:
        keeps_open: bool | None = self._library.eof_received()  # type: ignore[attr-defined]
        self.arrived()
        return keeps_open

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._library.connection_lost(error)
        self.arrived()

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()


def _nothing() -> None:
    """What happens after a tap is removed."""
