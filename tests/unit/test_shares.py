"""``benchmarks/shares`` and ``benchmarks/entropies``: what is asked, and when it ends."""

from __future__ import annotations

from benchmarks.entropies import Collecting, in_rounds, pooled
from benchmarks.shares import Counted
from glimp_integrations.method.steps import Step


def step(h: float | None, author: str = "small") -> Step:
    return Step(0, author, h, is_answer=False)


def test_questions_come_again_in_other_words() -> None:
    asked = in_rounds(["Why?", "How?"], 5)
    assert asked[:3] == ["Why?", "How?", "Why? Answer in one sentence."]
    assert len(set(in_rounds(["Why?", "How?"], 100))) == 10  # and then there are no more
    assert in_rounds(["Why?", "How?"], 1) == ["Why?"]


def test_it_ends_when_enough_was_seen() -> None:
    policy = Collecting(1.0, enough=3)
    asked = []
    for question in policy.asked(range(10), "task"):
        asked.append(question)
        policy.learn([step(0.5), step(None), step(1.5)])
    assert asked == [0, 1]  # with two boundaries each
    assert len(list(Collecting(1.0).asked(range(10), "task"))) == 10


def test_a_greeting_does_not_count() -> None:
    policy = Counted(0.25, known=False, enough=10)
    policy.learn([step(0.5, "large")])
    assert policy.large == [True] and policy.policy.seen
    policy.forget()
    assert (policy.large, policy.seen, policy.policy.seen) == ([], {}, {})


def test_places_with_few_values_are_not_described() -> None:
    found = pooled([{"first": [0.1] * 30, "later": [0.2] * 3}, {"first": [0.3] * 90}])
    assert list(found) == ["first"] and len(found["first"]) == 20
    assert set(found["first"]) <= {0.1, 0.2, 0.3}  # each task half, however many values it has
    assert found["first"].count(0.1) == 10 or found["first"].count(0.1) == 9
