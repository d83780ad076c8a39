"""The two kinds of response streams, as the OpenAI client's stream classes.

Imported when the first stream begins, because the client is heavy.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from openai import AsyncStream
from typing_extensions import override

__all__ = ["DrainedStream", "JsonLines"]

# The end of the body mostly comes in the packet of [DONE]; a server that does not send it within
# this many seconds costs a new connection.
_END_SECONDS = 0.25


class DrainedStream(AsyncStream[object]):
    """Server-sent events, whose connection stays usable.

    The client stops reading at ``[DONE]``. HTTP/1.1 needs the body's last bytes too before a
    connection can carry another request, so without them every stream costs a new connection
    (openai-python, issue 3440). This stream reads on to the body's end, for a moment at most.
    """

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


class JsonLines(AsyncStream[object]):
    """One JSON object a line; yields the objects as they are, an ``{"error": ...}`` included."""

    @override
    async def __stream__(self) -> AsyncIterator[object]:
        rest = b""
        try:
            # Bytes, because only a line feed ends a line here: text knows further line ends, and
            # JSON may hold those.
            async for data in self.response.aiter_bytes():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
            if rest.strip():
                yield json.loads(rest)
        finally:
            await self.response.aclose()
