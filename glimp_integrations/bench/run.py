"""Every item in every arm, in an order that is fair to all, each result stored at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from glimp_integrations.bench.arms import Arm
from glimp_integrations.bench.plan import BenchPlan, manifest_of, settings_hash
from glimp_integrations.bench.progress import Watcher
from glimp_integrations.bench.schedule import Slots, rounds
from glimp_integrations.bench.store import Store
from glimp_integrations.bench.tasks import Item
from glimp_integrations.errors import ConfigError, GlimpError, UnsuitableEndpointError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["BenchPlan", "arun", "manifest_of", "run"]

FAILURES_IN_A_ROW = 5
"""So many, and the bench stops: a server that is gone would fail every item left."""


def run(plan: BenchPlan, router: GlimpRouter, store: Store, watcher: Watcher | None = None) -> None:
    """:func:`arun` for callers without an event loop. Ctrl-C stops the models."""
    asyncio.run(arun(plan, router, store, watcher))


async def arun(
    plan: BenchPlan, router: GlimpRouter, store: Store, watcher: Watcher | None = None
) -> None:
    """Answer every item in every arm that has no result in the store yet.

    Arms take turns item by item, so that all see the same machine, each at another item, so that
    no arm finds another's prompt in a cache (``bench/order.py``). Random arms come last: their
    share is what the routed arm really had.

    A failed answer is stored as an error, counted, and tried again by the next run.

    Raises:
        ConfigError: Results of other items or settings stand in the store under the same name.
        GlimpError: Many answers in a row failed, or an endpoint cannot be used at all.
    """
    bench = _Bench(plan, router, store, watcher or Watcher())
    await bench.phase([arm for arm in plan.arms if arm.like is None])
    controls = []
    for arm in plan.arms:
        if arm.like is not None and (share := bench.share_for(arm)) is not None:
            controls.append(arm.with_share(share))
    await bench.phase(controls)


class _Bench:
    def __init__(
        self, plan: BenchPlan, router: GlimpRouter, store: Store, watcher: Watcher
    ) -> None:
        self.plan, self.router, self.store, self.watcher = plan, router, store, watcher
        self.slots = Slots()
        self.answers = 0
        self.failures = 0
        self.ready = False
        self.items = {item.id: item for item in plan.task.items}
        self.done: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.ungraded: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._read_store()

    def _read_store(self) -> None:
        for line in self.store.lines:
            if line.get("kind") not in ("answer", "ungraded"):
                continue
            item = self.items.get(line["item"])
            if item is not None and item.digest != line["digest"]:
                raise ConfigError(
                    f"{self.store.folder} has an answer to another question called "
                    f"{line['item']!r}: the questions have changed. Choose another --out"
                )
            place = line["arm"], line["item"]
            if line["kind"] == "answer":
                self.done[place] = line
            else:
                self.ungraded[place] = line

    def share_for(self, arm: Arm) -> float | None:
        """The share of a control: stored, else counted now; ``None``: there is none to take."""
        for stored in self.store.lines:
            if stored.get("kind") == "share" and stored["arm"] == arm.name:
                return float(stored["share"])
        steps = large = 0
        for (name, item), line in self.done.items():
            if name == arm.like and item in self.items:
                glimpsed = [s for s in line["trace"]["steps"] if s["entropy"] is not None]
                steps += len(glimpsed)
                large += sum(s["author"] == "large" for s in glimpsed)
        if not 0 < large < steps:
            self.watcher.say(
                f"{arm.like} sent {large} of {steps} glimpsed steps to the large model, so there "
                f"is no lot to draw: {arm.name} is left out"
            )
            return None
        self.store.add(
            {
                "kind": "share",
                "arm": arm.name,
                "share": large / steps,
                "large_steps": large,
                "steps": steps,
            }
        )
        return large / steps

    async def phase(self, arms: Sequence[Arm]) -> None:
        self._check_hashes(arms)
        names = {arm.name: arm for arm in arms}
        self.watcher.arms(
            {name: [self._known_right(name, item) for item in self.items] for name in names}
        )
        jobs = [
            (names[arm], self.items[item])
            for arm, item in rounds(list(names), list(self.items))
            if (arm, item) not in self.done
        ]
        if not jobs:
            return
        await self._warm_up()
        if self.plan.concurrency == 1:
            for arm, item in jobs:
                await self._measure_when_due()
                await self._one(arm, item)
            await self._measure(last=True)
        else:
            # Nothing else may run meanwhile, so only before and behind the crowd.
            await self._measure()
            await self._crowd(jobs)
            await self._measure(last=True)

    async def _crowd(self, jobs: Sequence[tuple[Arm, Item]]) -> None:
        waiting = iter(jobs)

        async def worker() -> None:
            for arm, item in waiting:
                await self._one(arm, item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.plan.concurrency, len(jobs))):
                    group.create_task(worker())
        except BaseExceptionGroup as found:
            # The first one tells why; the others were cancelled, or failed likewise.
            raise found.exceptions[0] from None

    def _known_right(self, arm: str, item: str) -> bool | None:
        line = self.done.get((arm, item))
        return None if line is None else line["right"]

    def _check_hashes(self, arms: Sequence[Arm]) -> None:
        for arm in arms:
            mine = settings_hash(self.plan.settings_of(arm))
            for (name, _), line in [*self.done.items(), *self.ungraded.items()]:
                if name == arm.name and line["settings"] != mine:
                    raise ConfigError(
                        f"{self.store.folder} has answers of {name!r} with other settings; "
                        "choose another --out"
                    )

    async def _warm_up(self) -> None:
        """Load both models before the first time is taken."""
        if not self.ready:
            self.watcher.doing("loading both models")
            await self._both("Hi")
            self.ready = True

    async def _run(self, messages: Any, settings: Mapping[str, Any]) -> RoutedAnswer:
        return await self.router.arun(messages, **settings)

    async def _both(self, messages: Any) -> None:
        """Both models read this, and write a token."""
        for threshold in (float("inf"), -1.0):
            await self._run(
                messages, {"max_tokens": 1, "max_thinking_tokens": 1, "threshold": threshold}
            )

    async def _measure_when_due(self) -> None:
        every = self.plan.measure_every
        if every and self.answers % every == 0:
            await self._measure()

    async def _measure(self, *, last: bool = False) -> None:
        if not self.plan.measure_every or (last and self.answers == 0):
            return
        self.watcher.doing("measuring both models' speed")
        try:
            speed = await self.router.ameasure()
        except GlimpError as error:
            self.watcher.say(f"the pair's speed cannot be measured, so there is no rho: {error}")
            return
        finally:
            self.router.speed = None  # strategies are chosen as for a user who never measured
        self.slots.forget()
        self.store.add({"kind": "speed", "at": _now(), "speed": asdict(speed)})

    async def _one(self, arm: Arm, item: Item) -> None:
        if (known := self.ungraded.get((arm.name, item.id))) is not None:
            self._graded(known, item)
            return
        settings = self.plan.settings_of(arm)
        if self.plan.concurrency == 1 and self.slots.may_know(item.id):
            await self._run_elsewhere()
        self.watcher.doing(f"{arm.name}, {item.id}")
        base = {
            "arm": arm.name,
            "item": item.id,
            "digest": item.digest,
            "settings": settings_hash(settings),
            "at": _now(),
            "concurrency": self.plan.concurrency,
        }
        started = time.perf_counter()
        try:
            result = await self._run(self.plan.task.messages(item), settings)
        except UnsuitableEndpointError:
            raise
        except GlimpError as error:
            self._failed(base, error, time.perf_counter() - started)
            return
        seconds = time.perf_counter() - started
        self.failures = 0
        self.answers += 1
        self.slots.used(item.id, result.trace)
        answer = {
            "kind": "answer",
            **base,
            "seconds": seconds,
            "reasoning": result.reasoning,
            "reply": result.answer,
            "expected": item.answer,
            "trace": result.trace.model_dump(mode="json"),
            "usage": result.usage.model_dump(mode="json"),
        }
        self._graded(answer, item)

    def _graded(self, line: Mapping[str, Any], item: Item) -> None:
        """Grade an answer and store it; where the grader fails, it is stored without a grade."""
        try:
            grade = self.plan.task.grade(item, line["reply"])
        except Exception as error:
            if line["kind"] == "answer":
                self.store.add({**line, "kind": "ungraded", "error": _describe(error)})
            raise
        found = {
            "score": grade.score,
            "right": grade.right,
            "extracted": grade.extracted,
            "marked": grade.marked,
        }
        stored = {**{k: v for k, v in line.items() if k != "error"}, "kind": "answer", **found}
        self.store.add(stored)
        self.done[stored["arm"], stored["item"]] = stored
        self.watcher.answered(stored["arm"], right=grade.right)

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
        self.watcher.failed(base["arm"], _describe(error))
        if self.failures >= FAILURES_IN_A_ROW:
            raise error

    async def _run_elsewhere(self) -> None:
        """Both servers' slots hold another conversation, from its first words on."""
        other = [
            {"role": "system", "content": "Greet people."},
            {"role": "user", "content": "Say hello to the new neighbour."},
        ]
        await self._both(other)
        self.slots.forget()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
