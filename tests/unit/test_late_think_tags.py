"""Think tags that stand where nobody waits for them: none of them is shown."""

from __future__ import annotations

import pytest
from helpers import model, result_of, router, script, shown

LATE = script(
    ("One", 0.1),
    ".\n\n",
    ("Two", 0.2),
    ".\n\n",
    ("Three", 0.1),
    ".\n",
    "</think>",
    "\n\n",
    "4.",
    "",
)
"""Thinks for three steps."""


def follows(script_tokens: list[tuple[bytes, float]]) -> object:
    """A model that goes on with its script behind a tag that was written for it."""

    def go_on(text: bytes) -> tuple[bytes, float]:
        written = text.replace(b"</think>\n\n", b"", 1) if text.startswith(CLOSED) else text
        position = b""
        for data, entropy in script_tokens:
            if position == written:
                return data, entropy
            position += data
        return b"", 0.0

    return go_on


CLOSED = b"One.\n\n</think>\n\n"


@pytest.mark.parametrize("answer_by", ["large", "small", "router"])
def test_no_tag_is_shown_and_the_answer_goes_on_behind_it(answer_by: str) -> None:
    def make() -> object:
        return model(follows(LATE))  # type: ignore[arg-type]

    pair = router(make(), make(), max_thinking_tokens=2, answer_by=answer_by)  # type: ignore[arg-type]
    events = list(pair.stream("hi"))
    result = result_of(events)
    assert result.reasoning == "One.\n\n"
    assert result.answer == "Two.\n\nThree.\n4."
    assert shown(events) == result.reasoning + result.answer
    ends = [step.end for step in result.trace.steps if step.kind == "answer"]
    assert ends[-2:] == ["think_end", "eos"]
    assert result.trace.answer_stop == "eos"
    assert "".join(s.text for s in result.trace.steps) == result.reasoning + result.answer


def test_tags_without_end_end_the_reply() -> None:
    def for_ever(text: bytes) -> tuple[bytes, float]:
        return b"</think>", 0.0

    result = router(model(for_ever), model(for_ever)).run("hi")  # type: ignore[arg-type]
    assert result.answer == ""
    assert result.trace.answer_stop == "repeated_step"
    assert len(result.trace.steps) < 5


def test_a_block_that_is_opened_twice_is_one_block() -> None:
    """Also where the tag comes in pieces, and the models' texts are the same behind it."""
    twice = script(
        "<th",
        "ink>",
        "\n",
        ("One", 0.1),
        ".\n\n",
        "Two.",
        "</think>",
        "\n\n",
        "4",
        "<think>",
        ".",
        "",
    )
    pair = router(model(twice), model(twice))
    events = list(pair.stream("hi"))
    result = result_of(events)
    assert (result.reasoning, result.answer) == ("\nOne.\n\nTwo.", "4.")
    assert shown(events) == result.reasoning + result.answer
    assert [step.end for step in result.trace.steps] == [
        "think_start", "delimiter", "think_end", "think_start", "eos",
    ]  # fmt: skip
