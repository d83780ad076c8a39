"""Running many cases at the same time, and the table of what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from glimp_integrations import io_loop

from .cases import Case, draw_case, run_case
from .proofs import Outcome

__all__ = ["Ran", "run_cases", "table", "tasks_left"]

_AT_ONCE = 16
_COLUMNS = ("fired", "right", "error", "went on", "failed")
_NONE = "(no fault fired)"


@dataclass
class Ran:
    """A case and what came of it."""

    case: Case
    outcome: Outcome

    @property
    def fired(self) -> list[str]:
        """The kinds that were fired."""
        kinds = {fault.kind for _, fault in self.case.fired}
        return sorted(kinds | {"starts late"} if self.case.late else kinds)

    def lines(self) -> Iterator[str]:
        """The failures, and how to see them again."""
        for what, details in self.outcome.failures:
            text = " ".join(details.split())
            yield f"python -m tests.faults {self.case.seed} {self.case.index}: {what}: {text[:400]}"
            yield f"    {self.case}"


async def run_cases(seed: int, indices: Iterable[int]) -> list[Ran]:
    """Run cases, some of them at the same time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(index: int) -> Ran:
        async with gate:
            case = draw_case(seed, index)
            return Ran(case, await run_case(case))

    ran = await asyncio.gather(*map(one, indices))
    # A second is short on a busy machine: where a healthy server was late, the case is run alone.
    return [await one(this.case.index) if this.outcome.blames_healthy else this for this in ran]


async def tasks_left(seconds: float = 5.0) -> list[str]:
    """Tasks on the loop of all models, once every call is over."""

    async def others() -> list[str]:
        return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    until = asyncio.get_running_loop().time() + seconds
    while left := await io_loop.acall(others):
        if asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(0.05)
    return left


def table(all_ran: list[Ran]) -> str:
    """By kind: cases in which it fired, and how they ended; then what failed; then sums."""
    rows: dict[str, Counter[str]] = {}
    failed: dict[str, list[Ran]] = {}
    for ran in all_ran:
        for kind in ran.fired or [_NONE]:
            rows.setdefault(kind, Counter()).update({"fired": 1, ran.outcome.kind: 1})
        for what in dict.fromkeys(what for what, _ in ran.outcome.failures):
            failed.setdefault(what, []).append(ran)
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f"{name:>9}" for name in _COLUMNS)]
    for kind, row in sorted(rows.items()):
        lines.append(f"{kind:{width}}" + "".join(f"{row[name]:9}" for name in _COLUMNS))
    for what, those in sorted(failed.items(), key=lambda item: -len(item[1])):
        indices = " ".join(str(ran.case.index) for ran in those[:12])
        kinds = Counter(kind for ran in those for kind in ran.fired or [_NONE])
        named = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(6))
        lines.append(f"{len(those):5} failed: {what} (indices {indices}; {named})")
    ends = Counter(ran.outcome.kind for ran in all_ran)
    requests = sum(len(s.requests) for ran in all_ran for s in ran.case.servers.values())
    shots = sum(fault.fired for ran in all_ran for _, fault in ran.case.fired)
    lines.append(f"{len(all_ran)} cases, {shots} faults fired, {requests} requests: {dict(ends)}")
    return "\n".join(lines)
