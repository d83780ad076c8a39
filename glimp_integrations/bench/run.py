"""Answers every item in every arm, in a fair order, and stores each result at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from glimp_integrations.bench.arms import Arm
from glimp_integrations.bench.plan import BenchPlan, manifest_of
from glimp_integrations.bench.progress import ProgressObserver
from glimp_integrations.bench.records import Place, Records
from glimp_integrations.bench.schedule import Slots, rounds
from glimp_integrations.bench.store import Store
from glimp_integrations.bench.tasks import Item
from glimp_integrations.errors import GlimpError, UnsuitableEndpointError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["BenchPlan", "arun", "evict_prompts", "manifest_of", "run"]

Job = tuple[Arm, Item, int]
"""Who answers what, and which repeat it is."""
FAILURES_IN_A_ROW = 5
"""After this many the bench stops: with a server that is gone, every item left would fail."""


def run(
    plan: BenchPlan, router: GlimpRouter, store: Store, observer: ProgressObserver | None = None
) -> None:
    """:func:`arun` for callers without an event loop. Ctrl-C stops the models."""
    asyncio.run(arun(plan, router, store, observer))


async def arun(
    plan: BenchPlan, router: GlimpRouter, store: Store, observer: ProgressObserver | None = None
) -> None:
    """Answer every item in every arm, in every repeat, where the store has no result yet.

    Arms take turns item by item, because a shared machine gets slower and faster in the course of
    hours. Neighbouring arms are at different items, so that no arm finds the prompt of another in
    a cache (``bench/schedule.py``). Random arms come last, because they need the share that the
    routed arm really had.

    A failed answer is stored as an error, counted, and tried again by the next run. An endpoint
    that turns out to be unsuitable before an arm has any text ends the bench at once.

    Raises:
        ConfigError: The store has results of other items or settings under the same name.
        GlimpError: Many answers in a row failed, or an endpoint cannot be used at all.
    """
    bench = _Bench(plan, router, store, observer or ProgressObserver())
    await bench.phase([arm for arm in plan.arms if arm.like is None])
    controls = []
    for arm in plan.arms:
        if arm.like is not None and (share := bench.share_for(arm)) is not None:
            controls.append(arm.with_share(share))
    await bench.phase(controls)


async def evict_prompts(router: GlimpRouter) -> None:
    """Let both models read another conversation, so that earlier prompts leave their caches."""
    other = [
        {"role": "system", "content": "Greet people."},
        {"role": "user", "content": "Say hello to the new neighbour."},
    ]
    await _let_both_read(router, other)


async def _let_both_read(router: GlimpRouter, messages: Any) -> None:
    """Let both models read a conversation and write one token."""
    for threshold in (float("inf"), -1.0):
        await router.arun(messages, max_tokens=1, max_thinking_tokens=1, threshold=threshold)


class _Bench:
    def __init__(
        self, plan: BenchPlan, router: GlimpRouter, store: Store, observer: ProgressObserver
    ) -> None:
        self.plan, self.router, self.store, self.observer = plan, router, store, observer
        self.slots = Slots()
        self.answers = 0
        self.failures = 0
        self.ready = False
        self.routers: dict[str, GlimpRouter] = {}
        self.records = Records(plan, store)
        self.items = self.records.items

    def share_for(self, arm: Arm) -> float | None:
        """The share of a random arm, see :meth:`Records.share_for`."""
        return self.records.share_for(arm, self.observer.say)

    async def phase(self, arms: Sequence[Arm]) -> None:
        self.records.check_settings(arms)
        names = {arm.name: arm for arm in arms}
        # All items once before any of them again: a bench that is stopped has whole repeats.
        asked = [(item, r) for r in range(1, self.plan.repeats + 1) for item in self.items]
        grade = self.records.grade
        self.observer.arms({name: [grade((name, *one)) for one in asked] for name in names})
        jobs: list[Job] = [
            (names[arm], self.items[item], repeat)
            for arm, (item, repeat) in rounds(list(names), asked)
            if (arm, item, repeat) not in self.records.done
        ]
        if not jobs:
            return
        await self._warm_up()
        if self.plan.concurrency == 1:
            for job in jobs:
                await self._measure_when_due()
                await self._one(*job)
            await self._measure(last=True)
        else:
            # Nothing else may run during a measurement, so it is done before and after.
            await self._measure()
            await self._concurrently(jobs)
            await self._measure(last=True)

    async def _concurrently(self, jobs: Sequence[Job]) -> None:
        waiting = iter(jobs)

        async def worker() -> None:
            for job in waiting:
                await self._one(*job)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.plan.concurrency, len(jobs))):
                    group.create_task(worker())
        except BaseExceptionGroup as group_error:
            # The first error is the reason; the others were cancelled or failed in the same way.
            raise group_error.exceptions[0] from None

    def _router_of(self, arm: Arm) -> GlimpRouter:
        """The models with what this arm has learned of its questions, and no other."""
        if arm.name not in self.routers:
            self.routers[arm.name] = self.router.fresh()
        return self.routers[arm.name]

    async def _warm_up(self) -> None:
        """Load both models before the first measured answer."""
        if not self.ready:
            self.observer.doing("loading both models")
            await _let_both_read(self.router, "Hi")
            self.ready = True

    async def _measure_when_due(self) -> None:
        every = self.plan.measure_every
        if every and self.answers % every == 0:
            await self._measure()

    async def _measure(self, *, last: bool = False) -> None:
        if not self.plan.measure_every or (last and self.answers == 0):
            return
        self.observer.doing("measuring both models' speed")
        try:
            speed = await self.router.ameasure()
        except GlimpError as error:
            self.observer.say(f"the pair's speed cannot be measured, so there is no rho: {error}")
            return
        finally:
            self.router.speed = (
                None  # so that strategies are chosen as for a user who never measured
            )
        self.slots.forget()
        self.store.add({"kind": "speed", "at": _now(), "speed": asdict(speed)})

    async def _one(self, arm: Arm, item: Item, repeat: int) -> None:
        place: Place = (arm.name, item.id, repeat)
        if (answer := self.records.ungraded.get(place)) is not None:
            self._graded(answer, item)
            return
        settings = self.plan.settings_of(arm, repeat)
        if self.plan.concurrency == 1 and self.slots.may_know(item.id):
            await evict_prompts(self.router)
            self.slots.forget()
        again = f", repeat {repeat}" if self.plan.repeats > 1 else ""
        self.observer.doing(f"{arm.name}, {item.id}{again}")
        base = {
            "arm": arm.name,
            "item": item.id,
            "repeat": repeat,
            "digest": item.digest,
            "settings": self.plan.hash_of(arm),
            "at": _now(),
            "concurrency": self.plan.concurrency,
        }
        started = time.perf_counter()
        try:
            result = await self._router_of(arm).arun(self.plan.task.messages(item), **settings)
        except GlimpError as error:
            if isinstance(error, UnsuitableEndpointError) and self._at_start(arm, error):
                raise
            self._failed(base, error, time.perf_counter() - started)
            return
        seconds = time.perf_counter() - started
        self.failures = 0
        self.answers += 1
        self.slots.used(item.id, result.trace)
        line = {
            "kind": "answer",
            **base,
            "seconds": seconds,
            "reasoning": result.reasoning,
            "reply": result.answer,
            "expected": item.answer,
            "trace": result.trace.model_dump(mode="json"),
            "usage": result.usage.model_dump(mode="json"),
        }
        self._graded(line, item)

    def _at_start(self, arm: Arm, error: UnsuitableEndpointError) -> bool:
        """Whether an arm cannot be asked at all, rather than a single answer of it failed."""
        partial = error.partial
        written = partial is not None and bool(partial.reasoning or partial.answer)
        return not written and not self.records.has_any(arm.name)

    def _graded(self, line: Mapping[str, Any], item: Item) -> None:
        """Grade an answer and store it; where the grader fails, store it without a grade."""
        try:
            grade = self.plan.task.grade(item, line["reply"])
        except Exception as error:
            if line["kind"] == "answer":
                self.store.add({**line, "kind": "ungraded", "error": _describe(error)})
            raise
        fields = {
            "score": grade.score,
            "right": grade.right,
            "extracted": grade.extracted,
            "marked": grade.marked,
        }
        stored = {**{k: v for k, v in line.items() if k != "error"}, "kind": "answer", **fields}
        self.records.add(stored)
        self.observer.answered(stored["arm"], right=grade.right)

    def _failed(self, base: Mapping[str, Any], error: GlimpError, seconds: float) -> None:
        partial = (
            error.partial.model_dump(mode="json")
            if isinstance(error.partial, RoutedAnswer)
            else None
        )
        self.store.add(
            {
                "kind": "error",
                **base,
                "seconds": seconds,
                "error": _describe(error),
                "partial": partial,
            }
        )
        self.slots.forget()
        self.failures += 1
        self.observer.failed(base["arm"], _describe(error))
        if self.failures >= FAILURES_IN_A_ROW:
            raise error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
