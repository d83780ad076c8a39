"""The requests of routed conversations in :mod:`benchmarks.lab.crowd`, and no routing.

A bare aiohttp client is told by the script who writes, so it decides nothing. It sends what
strategy ``overlap`` sends, stops the streams that are not wanted any more, and reads each line as
JSON, because a router has to see where a step ends. It checks nothing, measures no H, and keeps no
account.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import aiohttp
from pydantic_core import from_json

from benchmarks.lab.crowd_cells import Reply, Work, question
from benchmarks.lab.run import THRESHOLD, _starts
from benchmarks.lab.script import OPENED, Script

__all__ = ["prompt_of", "steps_of", "talk"]

_LINE = b"data: {"


class _Stream:
    """One completion, read token by token."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session, self._url, self._model = session, url, model
        self._answer: aiohttp.ClientResponse | None = None

    async def next(self, text: str) -> str:
        """The next token after a text; opens the stream if none runs."""
        if self._answer is None:
            body = {
                "model": self._model,
                "prompt": text,
                "max_tokens": 1000,
                "temperature": 0,
                "stream": True,
            }
            if self._model == "small":
                body["logprobs"] = 20
            self._answer = await self._session.post(f"{self._url}/completions", json=body)
            self._answer.raise_for_status()
        async for line in self._answer.content:
            if line.startswith(_LINE) and (choices := from_json(line[6:])["choices"]):
                return str(choices[0]["text"])
        return ""

    def close(self) -> None:
        """Stop it."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def prompt_of(chain: int) -> str:
    """The rendered question of a conversation, with thinking opened."""
    return f"<|im_start|>user\n{question(chain)}<|im_end|>\n{OPENED}"


def steps_of(script: Script) -> Iterator[tuple[str, int]]:
    """Who writes each step, and its number of tokens."""
    starts = _starts(script)
    places = [*sorted(starts), len(script.tokens)]
    for place, end in itertools.pairwise(places):
        hard = script.entropies[place] > THRESHOLD or starts[place] == "answer"
        yield ("large" if hard else "small"), sum(map(bool, script.tokens[place:end]))


async def talk(session: aiohttp.ClientSession, work: Work, chain: int) -> Reply:
    """One conversation; its text is that of the script."""
    started = time.perf_counter()
    small, large = (
        _Stream(session, url, name) for name, url in (("small", work.small), ("large", work.large))
    )
    text = prompt_of(chain)
    begin = len(text)
    for author, count in steps_of(work.scripts[chain]):
        glimpsed = "" if text.endswith("</think>") else await small.next(text)
        if author == "large":
            small.close()
            for _ in range(count):
                text += await large.next(text)
            continue
        large.close()
        text += glimpsed or await small.next(text)
        for _ in range(count - 1):
            text += await small.next(text)
    small.close()
    large.close()
    return Reply(time.perf_counter() - started, text[begin:].replace("</think>\n\n", ""))
