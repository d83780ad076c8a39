"""Conversations through ``glimp serve``: each is asked, followed to its end, and judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ..cases import ROLES
from ..proofs import written_by
from ..server import Fault
from ..texts import RightText, lowered
from .holding import Holding
from .talks import alike, question

__all__ = ["MAX_RETRIES", "ServedCrowd", "Talk", "draw_talk"]

MAX_RETRIES = 2
_WHOLE = 0.1  # of the conversations are not streamed
_SWITCH_SECONDS = 1.0  # for all requests of a conversation, besides its tokens


@dataclass
class Talk:
    """One conversation, and what came of it.

    Attributes:
        number: Its number.
        text: What is right.
        stream: Whether the reply is streamed.
        leaves: Seconds after which the client closes the connection; ``None``: it does not.
        seconds: It has to end within this time.
        faults: Those that its requests got, by role.
        reasoning: What came of the chain.
        answer: What came of the answer.
        finished: Whether the reply came to its end.
        error: What the server said in place of the rest.
        wrong: What was not as it must be, noticed on the way.
    """

    number: int
    text: RightText
    stream: bool
    leaves: float | None
    seconds: float
    faults: dict[str, list[Fault]] = field(default_factory=lambda: {role: [] for role in ROLES})
    reasoning: str = ""
    answer: str = ""
    finished: bool = False
    error: str | None = None
    wrong: str = ""

    @property
    def killed(self) -> int:
        """How many of its streams the servers killed."""
        return sum(map(len, self.faults.values()))

    @property
    def right(self) -> bool:
        """Whether all of the text came, and no other."""
        came = lowered(self.reasoning), lowered(self.answer)
        return came == (self.text.reasoning, self.text.answer)

    @property
    def begins_right(self) -> bool:
        """Whether what came is a beginning of the text."""
        reasoning, answer = lowered(self.reasoning), lowered(self.answer)
        whole = reasoning == self.text.reasoning
        begins = self.text.reasoning.startswith(reasoning) and self.text.answer.startswith(answer)
        return begins and (whole or not answer)

    def take(self, chunk: dict[str, Any]) -> None:
        """A chunk of the stream, or the whole reply."""
        if "error" in chunk:
            self.error = str(chunk["error"]["message"])
        for choice in chunk.get("choices", ()):
            part = choice.get("delta") or choice.get("message") or {}
            reasoning, answer = (part.get(name) or "" for name in ("reasoning_content", "content"))
            self.reasoning += reasoning
            self.answer += answer
            author = (chunk.get("glimp") or {}).get("author")
            if author is not None and not written_by(author, reasoning + answer):
                self.wrong = f"{reasoning + answer!r} by {author}"


def draw_talk(seed: int, number: int, kills: float, pace: float, timeout: float) -> Talk:
    """The conversation with this number.

    Args:
        seed: Decides all.
        number: Its number.
        kills: Share of the conversations that their client leaves.
        pace: Seconds for a token.
        timeout: Seconds to wait for a token.
    """
    draw = random.Random(f"served {seed}/{number}")
    text = alike(seed, number)
    expected = pace * len(text.tokens) + _SWITCH_SECONDS
    leaves = draw.random() * expected if draw.random() < kills else None
    stream = draw.random() >= _WHOLE
    return Talk(number, text, stream, leaves, 30.0 + 5 * timeout + 2 * expected)


@dataclass(kw_only=True)
class ServedCrowd(Holding):
    """Conversations with one ``glimp serve``.

    Attributes:
        session: Asks.
        url: Where it answers.
        kills: Share of the conversations that their client leaves.
        pace: Seconds for a token.
        took: Seconds of each conversation that nobody disturbed, and that was right.
        latest: The slowest of them: its seconds and its number.
    """

    session: aiohttp.ClientSession
    url: str
    kills: float
    pace: float
    took: list[float] = field(default_factory=list)
    latest: tuple[float, int] = (0.0, -1)

    async def one(self, number: int) -> None:
        talk = draw_talk(self.seed, number, self.kills, self.pace, self.timeout)
        self._open[number] = talk
        began = time.monotonic()
        asking = asyncio.create_task(self.ask(talk))
        limit = talk.seconds if talk.leaves is None else talk.leaves
        await asyncio.wait({asking}, timeout=limit)
        in_time = asking.done()
        took = time.monotonic() - began
        asking.cancel()
        problem: BaseException | None = None
        try:
            await asking
        except asyncio.CancelledError:
            pass
        except Exception as error:
            problem = error
        self.listen()
        del self._open[number]
        self._judge(talk, in_time, problem, began, took)
        self.slowest = max(self.slowest, (took, number))

    async def ask(self, talk: Talk) -> None:
        """Ask, and take what comes. Cancelling it closes the connection."""
        body = {
            "model": "glimp",
            "messages": [{"role": "user", "content": question(self.seed, talk.number)}],
            "stream": talk.stream,
            "glimp": {"steps": True} if talk.stream else {},
        }
        async with self.session.post(f"{self.url}/chat/completions", json=body) as reply:
            if not talk.stream or reply.status != 200:
                talk.take(await reply.json())
                talk.finished = True
                return
            async for line in reply.content:
                if line == b"data: [DONE]\n":
                    talk.finished = True
                elif line.startswith(b"data: "):
                    talk.take(json.loads(line.removeprefix(b"data: ")))

    def _judge(
        self, talk: Talk, in_time: bool, problem: BaseException | None, began: float, took: float
    ) -> None:
        where = f"conversation {talk.number}, {talk.killed} streams of it killed"
        came = f"{talk.reasoning!r} {talk.answer!r} of {talk.text.text!r}"
        if talk.wrong or not talk.begins_right:
            self.ends["failed"] += 1
            self.fail("wrong text", f"{where}: {talk.wrong or came}")
        elif not in_time and talk.leaves is not None:
            self.ends["left"] += 1
        elif not in_time:
            self.ends["hung"] += 1
            self.fail("no end", f"{where}: not within {talk.seconds:.0f} s: {came}")
        elif problem is not None:
            self.ends["failed"] += 1
            self.fail(f"raw {type(problem).__name__}", f"{where}: {problem}: {came}")
        elif talk.error is not None:
            self._judge_error(talk, began, where)
        elif not talk.finished or not talk.right:
            self.ends["failed"] += 1
            self.fail("lost text", f"{where}: ended with {came}")
        else:
            self.ends["went on" if talk.killed else "right"] += 1
            if not talk.killed and not self.was_paused(began, longest=0.0):
                self.took.append(took)
                self.latest = max(self.latest, (took, talk.number))
                self.fastest = min(self.fastest, took)

    def _judge_error(self, talk: Talk, began: float, where: str) -> None:
        self.errors["with a reason" if talk.killed > MAX_RETRIES else "without one"] += 1
        if talk.killed > MAX_RETRIES:
            self.ends["error"] += 1
        elif self.was_paused(began):
            self.ends["error"] += 1
            self.in_pauses += 1
        else:
            # One more attempt was allowed, and the servers were well.
            self.ends["failed"] += 1
            self.fail("an error of healthy servers", f"{where}: {talk.error}")
