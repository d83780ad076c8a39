"""Many conversations at once: they begin one after the other, and what came of them is counted."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..kinds import KINDS
from ..server import Fault
from .servers import Servers

__all__ = ["Holding", "fault_of"]

_SHOWN = 20  # failures are shown; all are counted
_WIDTH = 400  # characters of their beginning and of their end
_AFTERWARDS = ("closes afterwards", "unasked")  # happen to the next request on a connection


@dataclass
class Told:
    """A fault, or a pause of the machine, and when the client read of it."""

    when: float
    fact: dict[str, Any]


class Open(Protocol):
    """A conversation that runs.

    Attributes:
        faults: Those that its requests got, by role.
    """

    faults: dict[str, list[Fault]]


@dataclass
class Holding(ABC):
    """Conversations, so many at once, one after the other, and what came of them.

    Attributes:
        servers: Tell which faults they fired.
        seed: Decides the conversations.
        timeout: Seconds to wait for a token.
        started: How many conversations began.
        ends: How they ended: ``right``, ``error``, ``went on``, ``left``, ``failed``, and so on.
        kinds: Faults fired, by kind.
        errors: Errors that callers got, by class.
        failures: What was not as it must be, by name.
        shown: Lines about the first failures.
        fastest: Seconds of the quickest right conversation.
        slowest: Seconds of the slowest one of all, and its number.
        by_others: Conversations that felt another one's fault, as they may.
        in_pauses: Conversations that a pause of the machine broke off.
        show: Is called with a line about each of the first failures, when it is noticed.
    """

    servers: Servers
    seed: int
    timeout: float
    started: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    fastest: float = float("inf")
    slowest: tuple[float, int] = (0.0, -1)
    by_others: int = 0
    in_pauses: int = 0
    show: Callable[[str], None] = lambda line: None
    _open: dict[int, Open] = field(default_factory=dict)
    _lately: deque[Told] = field(default_factory=deque)

    @property
    def ended(self) -> int:
        """How many conversations are over."""
        return self.ends.total()

    async def hold(self, at_once: int, seconds: float, *, first: int = 0) -> list[int]:
        """Hold so many conversations at once for so long, and let those that run come to an end.

        Returns:
            Numbers of conversations of which nothing was heard any more.
        """
        until = time.monotonic() + seconds
        self.started = first

        async def one_after_the_other() -> None:
            while time.monotonic() < until:
                number, self.started = self.started, self.started + 1
                await self.one(number)

        workers = [asyncio.create_task(one_after_the_other()) for _ in range(at_once)]
        patience = seconds + 60.0 + 10 * self.timeout
        done, lost = await asyncio.wait(workers, timeout=patience)
        for worker in done:
            worker.result()
        for worker in lost:
            worker.cancel()
        return sorted(self._open) if lost else []

    @abstractmethod
    async def one(self, number: int) -> None:
        """Hold one conversation and judge it."""

    def fail(self, what: str, details: str) -> None:
        """Count a failure, and show it if it is one of the first."""
        self.failures[what] += 1
        if len(self.shown) < _SHOWN:
            words = " ".join(details.split())
            if len(words) > 2 * _WIDTH:
                words = f"{words[:_WIDTH]} ... {words[-_WIDTH:]}"
            self.shown.append(f"{what}: {words}")
            self.show(self.shown[-1])

    def listen(self) -> None:
        """Read what the servers told."""
        now = time.monotonic()
        for fact in self.servers.told():
            number, what = fact.get("number"), fact["what"]
            if what in ("failure", "stray"):
                self.fail(
                    f"server: {what}", f"{fact['role']}, conversation {number}: {fact['text']}"
                )
                continue
            if what == "pause":
                self._lately.append(Told(now, fact))
                continue
            self.kinds[fact["kind"]] += 1
            if number in self._open:
                self._open[number].faults[fact["role"]].append(fault_of(fact))
            if number is None or fact["kind"].startswith(_AFTERWARDS):
                self._lately.append(Told(now, fact))
        longest = 60.0 + 10 * self.timeout
        while self._lately and self._lately[0].when < now - longest:
            self._lately.popleft()

    def paused(self, seconds: float) -> None:
        """Note that this process could do nothing for so long."""
        self._lately.append(Told(time.monotonic(), {"what": "pause", "seconds": seconds}))

    def was_paused(self, began: float, longest: float | None = None) -> bool:
        """Whether the machine stood still since then, longer than this.

        Args:
            began: By :func:`time.monotonic`.
            longest: Seconds; ``None``: what may have broken a conversation off.
        """
        longest = self.timeout / 3 if longest is None else longest
        return any(
            told.fact["what"] == "pause" and told.fact["seconds"] > longest
            for told in self._lately
            if told.when > began
        )


def fault_of(fact: dict[str, Any]) -> Fault:
    """The fault that a server told of."""
    answer = KINDS[fact["kind"]].answer
    return Fault(
        fact["kind"], answer, fact["route"], place=fact["place"], value=fact["value"], fired=1
    )
