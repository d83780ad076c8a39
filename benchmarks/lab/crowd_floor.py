"""The requests of routed conversations in :mod:`benchmarks.lab.crowd`, and no routing.

A client is told by the script who writes, so it decides nothing. It sends what strategy ``overlap``
sends, stops the streams that are not wanted any more, and reads each line as JSON, because a router
has to see where a step ends. It checks nothing, measures no H, and keeps no account. What it takes
is the least that routing can take by that HTTP client.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Protocol

import aiohttp
from pydantic_core import from_json

from benchmarks.lab.crowd_cells import question
from benchmarks.lab.run import THRESHOLD, _starts
from benchmarks.lab.script import OPENED, Script
from benchmarks.lab.serving import bare_session

__all__ = ["Turn", "by_aiohttp", "by_own_client", "prompt_of", "steps_of", "tokens_of"]

_LINE = b"data: {"

Turn = tuple[str, int]
"""Who writes a step, ``"small"`` or ``"large"``, and its number of tokens."""


class Open(Protocol):
    """Opens a completion, and gives its body's lines, or several at once."""

    async def __call__(
        self, url: str, body: dict[str, Any], until: AsyncExitStack
    ) -> AsyncIterator[bytes]: ...


class _Stream:
    """One completion, read token by token."""

    def __init__(self, opener: Open, url: str, model: str) -> None:
        self._open, self._url, self._model = opener, url, model
        self._lines: AsyncIterator[bytes] | None = None
        self._until = AsyncExitStack()
        self._ready: list[str] = []

    async def next(self, text: str) -> str:
        """The next token after a text; opens the stream if none runs."""
        if self._ready:
            return self._ready.pop(0)
        if self._lines is None:
            body = {
                "model": self._model,
                "prompt": text,
                "max_tokens": 1000,
                "temperature": 0,
                "stream": True,
            }
            if self._model == "small":
                body["logprobs"] = 20
            self._lines = await self._open(f"{self._url}/completions", body, self._until)
        async for data in self._lines:
            for line in data.splitlines():
                if line.startswith(_LINE) and (choices := from_json(line[6:])["choices"]):
                    self._ready.append(choices[0]["text"])
            if self._ready:
                return self._ready.pop(0)
        return ""

    async def look(self, text: str) -> None:
        """Wait for the next token after a text, and leave it to be taken."""
        self._ready.insert(0, await self.next(text))

    async def close(self) -> None:
        """Stop it."""
        if self._lines is not None:
            self._lines = None
            self._ready.clear()
            await self._until.aclose()


def prompt_of(chain: int) -> str:
    """The rendered question of a conversation, with thinking opened."""
    return f"<|im_start|>user\n{question(chain)}<|im_end|>\n{OPENED}"


def steps_of(script: Script) -> Iterator[Turn]:
    """Who writes each step, and its number of tokens."""
    starts = _starts(script)
    places = [*sorted(starts), len(script.tokens)]
    for place, end in itertools.pairwise(places):
        hard = script.entropies[place] > THRESHOLD or starts[place] == "answer"
        yield ("large" if hard else "small"), sum(map(bool, script.tokens[place:end]))


async def tokens_of(
    opener: Open, small_url: str, large_url: str, chain: int, turns: Sequence[Turn]
) -> AsyncGenerator[str, None]:
    """The tokens of one conversation, whose text is that of its script."""
    small, large = _Stream(opener, small_url, "small"), _Stream(opener, large_url, "large")
    text = prompt_of(chain)
    try:
        for author, count in turns:
            if not text.endswith("</think>"):
                await small.look(text)
            writer, other = (small, large) if author == "small" else (large, small)
            await other.close()
            for _ in range(count):
                token = await writer.next(text)
                text += token
                yield token
    finally:
        await small.close()
        await large.close()


@asynccontextmanager
async def by_aiohttp() -> AsyncIterator[Open]:
    """Completions by a bare aiohttp client."""
    async with bare_session() as session:

        async def opened(url: str, body: dict[str, Any], until: AsyncExitStack) -> Any:
            answer: aiohttp.ClientResponse = await session.post(url, json=body)
            until.callback(answer.close)
            answer.raise_for_status()
            return answer.content

        yield opened


@asynccontextmanager
async def by_own_client() -> AsyncIterator[Open]:
    """Completions by the HTTP client of ``OpenAIBackend``, and nothing else of it."""
    from glimp_integrations.backends.http.client import HttpClient
    from glimp_integrations.backends.http.connections import Connections
    from glimp_integrations.backends.http.sending import as_json

    clients: dict[str, HttpClient] = {}

    async def nothing() -> None: ...

    async def opened(url: str, body: dict[str, Any], until: AsyncExitStack) -> Any:
        if url not in clients:
            clients[url] = HttpClient(
                url, api_key=None, headers=dict, connections=Connections(nothing)
            )
        request = clients[url].request("POST", url, seconds=60, body=as_json(body))
        response = await until.enter_async_context(request)
        return await until.enter_async_context(aclosing(response.chunks()))

    yield opened
    for client in clients.values():
        await client.aclose()
