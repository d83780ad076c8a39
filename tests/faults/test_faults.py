"""A few hundred cases in each run; ``make test-faults`` runs thousands."""

from __future__ import annotations

import logging

import pytest

from .cases import draw_case
from .kinds import KINDS
from .report import run_cases, table, tasks_left

SEED, CASES = 11, 200
_FAULTY = (
    "what a broken server sends may not give a wrong text, nor any error but the project's own"
)


@pytest.mark.parametrize("part", range(2))
async def test_no_fault_gives_a_wrong_text_or_a_foreign_exception(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asyncio"):
        ran = await run_cases(SEED, range(part, CASES, 2))
    lines = [line for one in ran for line in one.lines()]
    assert not lines, "\n".join([_FAULTY, *lines, table(ran)])
    assert not await tasks_left()
    assert not [r.getMessage() for r in caplog.records if r.name == "asyncio"]


def test_a_case_is_the_same_every_time_it_is_drawn() -> None:
    assert [str(draw_case(5, index)) for index in range(50)] == [
        str(draw_case(5, index)) for index in range(50)
    ]


def test_each_kind_is_drawn() -> None:
    drawn = {kind for index in range(CASES) for kind in draw_case(SEED, index).kinds}

    assert drawn >= set(KINDS)
