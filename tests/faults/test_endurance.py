"""A few seconds of ``make test-endurance``, and proofs that it notices what it is there for."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .endurance import crowd
from .endurance.measures import MIB, Sample, grown, line_through
from .endurance.run import Plan, run
from .endurance.servers import Servers
from .endurance.serving import kinds_of
from .endurance.talks import number_in, question, talk
from .texts import RightText


def test_conversations_at_once_are_right_and_leave_nothing() -> None:
    lines: list[str] = []
    report = run(Plan(seconds=3.0, at_once=16, seed=1, timeout=4.0, every=0.5), show=lines.append)

    assert report.held, report.table()
    assert report.crowd.started > 16
    assert report.crowd.ends["right"] > 0
    assert len(report.samples) == 6
    assert len(lines) == 8
    assert report.table().endswith("held")


def test_what_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed up, left open, hanging, or raised: each in every fourth conversation."""
    left_open: list[socket.socket] = []
    called, draw, right = crowd.called, crowd.draw_conversation, crowd.talk

    def mixed_up(seed: int, number: int) -> tuple[RightText, str]:
        return right(seed, number + 1 if number % 4 == 0 else number)

    def impatient(*args: Any) -> crowd.Conversation:
        case = draw(*args)
        case.leaves = None
        if case.index % 4 == 2:
            case.seconds = 0.05
        return case

    async def broken(case: crowd.Conversation, *args: Any, **changes: Any) -> Any:
        if case.index % 4 == 1:
            left_open.append(socket.socket())
        if case.index % 4 == 2:
            await asyncio.Event().wait()
        if case.index % 4 == 3:
            raise KeyError("x")
        return await called(case, *args, **changes)

    monkeypatch.setattr(crowd, "talk", mixed_up)
    monkeypatch.setattr(crowd, "draw_conversation", impatient)
    monkeypatch.setattr(crowd, "called", broken)
    report = run(Plan(seconds=0.3, at_once=8, faults=0.0))
    for one in left_open:
        one.close()
    failures = report.crowd.failures

    assert not report.held
    assert failures["wrong text"] >= 2
    assert failures["raw KeyError"] >= 2
    assert failures["no end"] == report.crowd.ends["hung"] >= 2
    assert report.descriptors_left == len(left_open) >= 2
    assert set(failures) == {"wrong text", "raw KeyError", "no end"}, report.table()


def test_servers_that_end_are_noticed() -> None:
    with pytest.raises(RuntimeError, match="has ended"), Servers(1, 0.0, only="no such kind"):
        pass


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="no kind of fault has 'no such kind' in its name"):
        kinds_of("no such kind")


def test_requests_name_their_conversation() -> None:
    assert number_in(repr({"messages": [{"content": question(3, 17)}]})) == 17
    assert number_in(repr({"content": "<b17>\n</b17>"})) == 17
    assert number_in(repr({"content": "<b>"})) is None
    assert talk(3, 17)[0].text != talk(3, 18)[0].text


def samples(**changes: Any) -> list[Sample]:
    """Ten minutes of a process that stays as it is, otherwise as said: what is there at a time."""
    steady = {"rss": 80 * MIB, "descriptors": 130, "tasks": 200, "threads": 70, "blocks": 10**6}
    made = []
    for number in range(1, 61):
        seconds = 10.0 * number
        values = {
            name: int(changes[name](seconds) if name in changes else value) + number % 7
            for name, value in steady.items()
        }
        made.append(Sample(seconds=seconds, **values))
    return made


def test_what_stays_has_not_grown() -> None:
    assert grown(samples(), 64) == []


def test_a_beginning_is_no_growth() -> None:
    def warmed_up(seconds: float) -> float:
        return 80 * MIB + min(seconds, 190) * MIB / 4

    assert grown(samples(rss=warmed_up, tasks=lambda s: 5 if s < 100 else 250), 64) == []


def test_a_peak_is_no_growth() -> None:
    assert grown(samples(rss=lambda s: (180 if s in (400, 510) else 80) * MIB), 64) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rss", lambda s: 80 * MIB + s * 20_000),
        ("descriptors", lambda s: 130 + s / 15),
        ("tasks", lambda s: 200 + s / 15),
        ("threads", lambda s: 70 + s / 15),
    ],
)
def test_what_grows_is_noticed(name: str, value: Any) -> None:
    found = grown(samples(**{name: value}), 64)

    assert len(found) == 1
    assert found[0].startswith(f"{name} grew from ")


def test_the_line_of_least_squares() -> None:
    line = line_through([0.0, 10.0, 20.0], [1.0, 3.0, 5.0])

    assert (line.begin, line.rise, line.slope, line.error) == pytest.approx((1.0, 4.0, 720.0, 0.0))
