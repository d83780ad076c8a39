"""Streams of one JSON object a line. Imports the client, so it is imported on first use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from openai import AsyncStream
from typing_extensions import override

__all__ = ["JsonLines"]


class JsonLines(AsyncStream[object]):
    """Yields the objects as they are, an ``{"error": ...}`` included."""

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
