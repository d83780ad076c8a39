"""Conversations over one pair of backends: each is made, followed to its end, and judged."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from glimp_integrations import Finished, GlimpRouter, RoutedAnswer

from ..cases import ROLES, STRATEGIES, WAYS, Case, called
from ..kinds import KINDS
from ..proofs import Outcome, Streamed, verdict
from ..texts import lowered
from .holding import Holding, fault_of
from .serving import shapes_of
from .talks import question, talk

__all__ = ["KEY", "Conversation", "Crowd", "draw_conversation"]

KEY = "sk-secret-endurance-0123456789"
_LEFT = 0.04  # of the conversations are left before their end
_BEFORE = 2.0  # seconds for which a fault of nobody's request may be felt


@dataclass
class Conversation(Case):
    """A case of one of many conversations at the same servers.

    Attributes:
        leaves: When the caller leaves: after so many events, or hundredths of a second.
    """

    leaves: int | None = None

    @property
    def key(self) -> str:
        return KEY


def draw_conversation(seed: int, number: int, timeout: float, urls: dict[str, str]) -> Conversation:
    """The conversation with this number, at these addresses."""
    draw = random.Random(f"conversation {seed}/{number}")
    text, answer_by = talk(seed, number)
    options: dict[str, Any] = {
        "strategy": draw.choice(STRATEGIES),
        "on_backend_error": draw.choice(("raise", "small", "large")),
        "timeout": timeout,
        "max_retries": draw.choice((0, 1, 2)),
        "answer_by": answer_by,
    }
    conversation = Conversation(
        seed=seed,
        index=number,
        text=text,
        shapes=shapes_of(seed),
        faults={role: [] for role in ROLES},
        kinds=[],
        harmless=False,
        late=(),
        options=options,
        backends={},
        way=draw.choice(WAYS),
        seconds=30.0 + 5 * timeout,
    )
    if draw.random() < _LEFT:
        conversation.way = draw.choice(("astream", "arun"))
        conversation.leaves = draw.randint(0, 20)
    for role in ROLES:
        model = SimpleNamespace(strays=[])
        conversation.servers[role] = SimpleNamespace(url=urls[role], model=model)  # type: ignore[assignment]
    return conversation


@dataclass(kw_only=True)
class Crowd(Holding):
    """Conversations with one router.

    Attributes:
        router: Answers all of them.
    """

    router: GlimpRouter

    async def one(self, number: int) -> None:
        case = draw_conversation(self.seed, number, self.timeout, self.servers.urls)
        self._open[number] = case
        streamed = Streamed()
        began = time.monotonic()
        result: RoutedAnswer | BaseException | None
        limit = asyncio.timeout(case.seconds)
        left = False
        try:
            async with limit:
                if case.leaves is None:
                    asked = question(self.seed, number)
                    result = await called(case, self.router, asked, streamed, **case.options)
                else:
                    result, left = await self._leave(case, streamed)
        except Exception as error:
            result = None if limit.expired() else error
        took = time.monotonic() - began
        self.listen()
        del self._open[number]
        if left:
            self.ends["left"] += 1
            if problem := _no_beginning(case, streamed):
                self.fail("wrong text", f"{case}: {problem}")
        else:
            self._judge(case, result, streamed, began)
        self.slowest = max(self.slowest, (took, number))
        if isinstance(result, RoutedAnswer):
            self.fastest = min(self.fastest, took)

    async def _leave(
        self, case: Conversation, streamed: Streamed
    ) -> tuple[RoutedAnswer | None, bool]:
        """Begin a conversation and leave: what came of it, and whether it was left in time."""
        assert case.leaves is not None
        asked = question(self.seed, case.index)
        if case.way == "arun":
            task = asyncio.ensure_future(self.router.arun(asked, **case.options))
            done, _ = await asyncio.wait({task}, timeout=case.leaves / 100)
            if done:
                return task.result(), False
            task.cancel()
            with suppress(asyncio.CancelledError):
                return await task, False
            return None, True
        async with aclosing(self.router.astream(asked, **case.options)) as events:
            number = 0
            async for event in events:
                if isinstance(event, Finished):
                    return event.result, False
                streamed.take(event)
                number += 1
                if number > case.leaves:
                    break
        return None, True

    def _judge(
        self,
        case: Conversation,
        result: RoutedAnswer | BaseException | None,
        streamed: Streamed,
        began: float,
    ) -> None:
        outcome = _verdict(case, result, streamed)
        own = sum(map(len, case.faults.values()))
        if outcome.failures and not outcome.hung:
            outcome = self._judged_again(case, result, streamed, began) or outcome
        if outcome.failures and outcome.blames_healthy and self.was_paused(began):
            self.in_pauses += 1
            outcome = Outcome("error")
        self.ends["hung" if outcome.hung else outcome.kind] += 1
        if isinstance(result, BaseException):
            self.errors[type(result).__name__] += 1
        for what, details in outcome.failures:
            self.fail(
                what, f"conversation {case.index}, {own} faults of its own: {details} ({case})"
            )

    def _judged_again(
        self,
        case: Conversation,
        result: RoutedAnswer | BaseException | None,
        streamed: Streamed,
        began: float,
    ) -> Outcome | None:
        """Whether faults that hit all conversations explain what this one got."""
        shared = [
            told.fact
            for told in self._lately
            if told.when > began - _BEFORE and told.fact["what"] == "fault"
        ]
        for role in ROLES:
            case.faults[role] += [fault_of(f) for f in shared if f["role"] == role]
        outcome = _verdict(case, result, streamed)
        if outcome.failures:
            return None
        self.by_others += 1
        return outcome


def _verdict(
    case: Conversation, result: RoutedAnswer | BaseException | None, streamed: Streamed
) -> Outcome:
    fired = [fault for faults in case.faults.values() for fault in faults]
    case.harmless = all(KINDS[fault.kind].harmless for fault in fired)
    return verdict(case, result, streamed)


def _no_beginning(case: Conversation, streamed: Streamed) -> str:
    reasoning, answer = (lowered(streamed.texts[kind]) for kind in ("reasoning", "answer"))
    if streamed.authors_wrong:
        return streamed.authors_wrong
    begins = case.text.reasoning.startswith(reasoning) and case.text.answer.startswith(answer)
    if not begins or (answer and reasoning != case.text.reasoning):
        return f"{streamed.texts} of {case.text.reasoning!r} {case.text.answer!r}"
    return ""
