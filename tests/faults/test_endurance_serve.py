"""A few seconds of ``make test-endurance SERVE=1``, and proofs that it notices what it is for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .endurance import served, served_crowd, served_run
from .endurance.plan import Plan
from .endurance.run import run
from .endurance.served_crowd import ServedCrowd, Talk, draw_talk
from .endurance.served_run import KILLS, uneven
from .endurance.serving import kinds_of
from .endurance.talks import alike
from .texts import RightText

# The slowest may take long here, where other tests run beside it.
SHORT = Plan(seconds=1.0, at_once=8, faults=0.0, kills=0.0, pace=0.005, serve=True, slowest=50.0)


def test_conversations_through_glimp_serve_are_right_and_leave_nothing() -> None:
    """Clients leave a third of them, and a tenth of all streams is killed."""
    lines: list[str] = []
    plan = Plan(
        seconds=3.0,
        at_once=16,
        faults=0.1,
        kills=0.3,
        pace=0.01,
        timeout=4.0,
        every=0.5,
        serve=True,
        slowest=50.0,
    )
    report = run(plan, show=lines.append)

    assert report.held, report.table()
    assert report.crowd.ends["right"] > 0
    assert report.crowd.ends["went on"] > 0
    assert report.crowd.ends["left"] > 0
    assert set(report.crowd.kinds) <= set(KILLS.split(","))
    assert len(report.samples) == 6
    assert report.samples[-1].tasks > 0
    assert len(lines) == 8
    assert "glimp serve" in report.table()


def test_what_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed up, hanging, broken off, or asked twice: each in every fourth conversation."""
    ask, draw, right = ServedCrowd.ask, draw_talk, alike

    def mixed_up(seed: int, number: int) -> RightText:
        return right(seed, number + 1 if number % 4 == 0 else number)

    def impatient(seed: int, number: int, *args: Any) -> Talk:
        talk = draw(seed, number, *args)
        if number % 4 == 1:
            talk.seconds = 0.05
        talk.stream = True
        return talk

    async def broken(self: ServedCrowd, talk: Talk) -> None:
        await ask(self, talk)
        if talk.number % 4 == 1:
            await asyncio.Event().wait()
        if talk.number % 4 == 2:
            talk.answer = talk.answer[:-1]
        if talk.number % 4 == 3:
            talk.reasoning = talk.answer = ""
            await ask(self, talk)

    monkeypatch.setattr(served_crowd, "alike", mixed_up)
    monkeypatch.setattr(served_crowd, "draw_talk", impatient)
    monkeypatch.setattr(ServedCrowd, "ask", broken)
    report = run(SHORT)
    failures = report.crowd.failures

    assert not report.held
    assert failures["wrong text"] >= 2
    assert failures["no end"] == report.crowd.ends["hung"] >= 2
    assert failures["lost text"] >= 2
    assert set(failures) == {"wrong text", "no end", "lost text"}, report.table()
    assert any("access log" in problem for problem in report.problems()), report.table()


def test_what_a_server_leaves_behind_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_MODULE", "tests.faults.endurance.leaky_process")
    report = run(SHORT)
    problems = "; ".join(report.problems())

    assert "tasks ran on" in problems
    assert "descriptors left open" in problems
    assert "left open" in report.warnings
    assert not report.crowd.failures, report.table()


def test_an_error_where_an_attempt_was_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_run, "MAX_RETRIES", 0)  # what the server is told
    report = run(Plan(seconds=1.0, at_once=8, faults=0.3, kills=0.0, pace=0.005, serve=True))

    assert set(report.crowd.failures) == {"an error of healthy servers"}, report.table()


def test_a_wrong_author_is_noticed() -> None:
    talk = draw_talk(1, 2, 0.0, 0.01, 1.0)
    chunk = {"choices": [{"delta": {"reasoning_content": "upper"}}], "glimp": {"author": "small"}}
    talk.take(chunk)
    assert not talk.wrong
    talk.take({**chunk, "glimp": {"author": "large"}})
    assert talk.wrong == "'upper' by large"


def test_slow_conversations_are_noticed() -> None:
    assert uneven([1.0, 1.5, 2.0], 2.0) == ""
    assert "took 2.01 s" in uneven([1.0, 2.01, 1.5], 2.0)


def test_all_conversations_are_alike() -> None:
    texts = [alike(1, number) for number in range(50)]
    assert len({(len(text.tokens), text.hard, text.authors) for text in texts}) == 1
    assert len({text.text for text in texts}) == 50


def test_kinds_of_faults_may_be_named_with_commas() -> None:
    assert {kind.name for kind in kinds_of(KILLS)[True]} == set(KILLS.split(","))
    assert kinds_of(KILLS)[False] == []
