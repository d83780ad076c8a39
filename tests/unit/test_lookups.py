"""The benchmark's look-ups: two sets that share nothing, and their scorer."""

from __future__ import annotations

import pytest

from benchmarks import lookups
from glimp_integrations.bench.tasks import Item


def test_what_is_tuned_on_is_not_reported_on() -> None:
    (tuning, _), (report, _) = lookups.tuning(), lookups.report()
    assert len(tuning) > 100
    assert len(report) > 200
    assert not {item.question for item in tuning} & {item.question for item in report}
    assert [item.id for item in lookups.report()[0]] == [item.id for item in report]


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("JP", "JP", True),
        ("JP", " jp\n", True),
        ("JP", "The code of Japan is **JP**.", True),
        ("404", "404 Not Found", True),
        ("cy", "`cy`", True),
        ("Co", "Cobalt has the symbol Co.", True),
        ("Co", "The symbol is CO.", False),  # that is a gas
        ("JP", "JPN", False),
        ("JP", "Japan", False),
        ("JP", "", False),
    ],
)
def test_a_code_is_the_first_or_last_word(answer: str, reply: str, right: bool) -> None:
    assert lookups.right(Item("x", "?", answer), reply) is right
