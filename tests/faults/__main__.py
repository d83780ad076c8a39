"""``python -m tests.faults SEED INDEX`` repeats a case; ``SEED -n N`` runs N of them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Iterable

from .report import Ran, run_cases, table, tasks_left

_WIDTH = 600


def main() -> int:
    """Run, print, and say by the exit status whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("index", type=int, nargs="*", help="the cases with these numbers")
    parser.add_argument("-n", type=int, default=0, help="so many cases from the first one on")
    options = parser.parse_args()
    started = time.monotonic(), time.process_time()
    warnings = _Warnings()
    logging.getLogger("asyncio").addHandler(warnings)
    ran, left = asyncio.run(_run(options.seed, options.index or range(options.n)))
    for one in ran:
        if options.index and not one.outcome.failures:
            print(f"{one.case.index}: {one.outcome.kind}: {one.case}")
        for line in one.lines():
            print(line[:_WIDTH])
    print(table(ran))
    print(f"tasks left: {left or 0}; warnings of asyncio: {warnings.texts or 0}")
    wall, busy = time.monotonic() - started[0], time.process_time() - started[1]
    print(f"{wall:.1f} s, {busy:.1f} s of a core")
    return any(one.outcome.failures for one in ran) or bool(left or warnings.texts)


async def _run(seed: int, indices: Iterable[int]) -> tuple[list[Ran], list[str]]:
    return await run_cases(seed, indices), await tasks_left()


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


if __name__ == "__main__":
    sys.exit(main())
