"""Running many cases at the same time, and the table of what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .cases import Case, draw_case, run_case
from .proofs import Outcome

__all__ = ["Ran", "run_cases", "table"]

_AT_ONCE = 24
_COLUMNS = ("fired", "right", "error", "went on", "failed")


@dataclass
class Ran:
    """A case and what came of it."""

    case: Case
    outcome: Outcome

    def lines(self) -> Iterator[str]:
        """The failures, and how to see them again."""
        for what, details in self.outcome.failures:
            yield f"python -m tests.faults {self.case.seed} {self.case.index}: {what}: {details}"
            yield f"    {self.case}"


async def run_cases(seed: int, indices: Iterable[int]) -> list[Ran]:
    """Run cases, some of them at the same time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(index: int) -> Ran:
        async with gate:
            case = draw_case(seed, index)
            return Ran(case, await run_case(case))

    return await asyncio.gather(*map(one, indices))


def table(all_ran: list[Ran]) -> str:
    """By kind: cases in which it fired, and how those ended; then failures by what failed."""
    rows: dict[str, Counter[str]] = {}
    for ran in all_ran:
        fired = {fault.kind for _, fault in ran.case.fired}
        fired |= {"starts late"} if ran.case.late else set()
        for kind in fired or {"(none fired)"}:
            rows.setdefault(kind, Counter()).update({"fired": bool(fired), ran.outcome.kind: 1})
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{name:>9}" for name in _COLUMNS)]
    for kind, row in sorted(rows.items()):
        lines.append(f"{kind:{width}}" + "".join(f"{row[name]:9}" for name in _COLUMNS))
    failed: dict[str, list[Ran]] = {}
    for ran in all_ran:
        for what in dict.fromkeys(what for what, _ in ran.outcome.failures):
            failed.setdefault(what, []).append(ran)
    for what, those in sorted(failed.items(), key=lambda item: -len(item[1])):
        indices = " ".join(str(ran.case.index) for ran in those[:8])
        lines.append(f"{len(those):5} failed: {what} (indices {indices})")
    ends = Counter(ran.outcome.kind for ran in all_ran)
    requests = sum(len(s.requests) for ran in all_ran for s in ran.case.servers.values())
    shots = sum(fault.fired for ran in all_ran for _, fault in ran.case.fired)
    lines.append(f"{len(all_ran)} cases, {shots} faults fired, {requests} requests: {dict(ends)}")
    return "\n".join(lines)
