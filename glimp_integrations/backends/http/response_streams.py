"""Streams of the OpenAI client that leave their connection usable.

The client stops reading at ``[DONE]``. HTTP/1.1 needs the body's last bytes too before a
connection can carry another request, so without them every stream costs a new connection
(openai-python, issue 3440). Imported when the first stream begins: the client is heavy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from openai import AsyncStream

__all__ = ["DrainedStream"]

# The end of the body mostly comes in the packet of [DONE]; a server that does not send it within
# this many seconds costs a new connection.
_END_SECONDS = 0.25


class DrainedStream(AsyncStream[object]):
    """Reads the body behind ``[DONE]`` to its end, for a moment at most."""

    async def _iter_events(self) -> AsyncIterator[Any]:
        events = super()._iter_events()
        async for event in events:
            if event.data.startswith("[DONE]"):
                break
            yield event
        # The answer is complete: whatever goes wrong here costs a connection, and not the answer.
        with suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                async for _ in events:
                    pass
