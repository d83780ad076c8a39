"""Replies that a program reads by marks: who asks for them."""

from __future__ import annotations

from typing import Any

import pytest
from scripts import SPOKEN_TEXT, pair

from glimp_integrations import GlimpRouter
from glimp_integrations.conversation.text_agents import read_by_marks

REACT = "Thought: why\nAction: a tool\nAction Input: JSON"


@pytest.mark.parametrize("role", ["system", "user", "developer"])
@pytest.mark.parametrize("text", [REACT, f"Hi.\n{REACT}\nBye.", "Write <execute>code</execute>."])
def test_instructions_that_name_all_marks(role: str, text: str) -> None:
    assert read_by_marks([{"role": "user", "content": "hi"}, {"role": role, "content": text}])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": REACT},
        {"role": "tool", "content": REACT},
        {"role": "user", "content": "Context: ...\nQuestion: Who?\nAnswer: "},
        {"role": "user", "content": "Thought: why\nAction: none"},
        {"role": "user", "content": "What does <execute> do?"},
    ],
)
def test_other_messages(message: dict[str, Any]) -> None:
    assert not read_by_marks([message])


@pytest.mark.parametrize(
    ("question", "changes", "whole"),
    [
        ("hi", {}, False),
        ("hi", {"stop": ["never"]}, True),
        ("hi", {"stop": []}, False),
        ("hi", {"stop": ["never"], "untagged_answer": "last_step"}, False),
        (REACT, {}, True),
        (REACT, {"untagged_answer": "last_step"}, False),
    ],
)
def test_such_replies_are_the_answer_as_a_whole(
    question: str, changes: dict[str, Any], whole: bool
) -> None:
    router = GlimpRouter(**pair("So.", tags=False), temperature=0)
    result = router.run(question, **changes)
    assert (result.reasoning, result.answer) == (
        ("", f"{SPOKEN_TEXT}So.") if whole else (SPOKEN_TEXT, "So.")
    )


def test_thinking_in_tags_stays_reasoning() -> None:
    result = GlimpRouter(**pair("So."), temperature=0).run(REACT, stop=["never"])
    assert (result.answer, bool(result.reasoning)) == ("So.", True)
