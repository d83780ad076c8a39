"""Think tags where nobody waits for them: not shown where the block may be open, text elsewhere."""

from __future__ import annotations

import pytest
from helpers import OPENED, model, result_of, router, script, shown

from glimp_integrations import OutputSpec
from glimp_integrations.backends import ScriptedBackend

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
        "<think>",
        "4",
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


@pytest.mark.parametrize(
    ("answer_by", "pieces"),
    # An answer in steps is cut behind blank lines, from where the script would not go on.
    [("large", 1), ("large", 3), ("large", 7), ("small", 3), ("router", 1)],
)
def test_an_answer_may_speak_of_tags(answer_by: str, pieces: int) -> None:
    said = "Write `<think>` and `</think>`, or\n\n<think>\nso.\n</think>\n\nDone."
    cut = [said[n : n + pieces] for n in range(0, len(said), pieces)]
    tokens = script("Two.", "</think>", "\n\n", *cut, "")
    pair = router(model(tokens), model(tokens), answer_by=answer_by)
    events = list(pair.stream("hi"))
    result = result_of(events)
    assert (result.reasoning, result.answer) == ("Two.", said)
    assert shown(events) == "Two." + said
    assert pair.run("hi").answer == said


def test_behind_a_block_that_is_closed_late_tags_are_text() -> None:
    tokens = [*LATE[:-2], *script("4, not `", "</think>", "`.", "")]
    pair = router(model(follows(tokens)), model(follows(tokens)), max_thinking_tokens=2)  # type: ignore[arg-type]
    assert pair.run("hi").answer == "Two.\n\nThree.\n4, not `</think>`."


def test_a_stop_string_that_has_begun_is_found_all_the_same() -> None:
    tokens = script("Two.", "</think>", "\n\n", "Hi S", "T", "OP", "</think>", "!", "")
    pair = router(model(tokens), model(tokens), stop=["STOP"])
    assert pair.run("hi").answer == "Hi "
    tokens = script("Two.", "</think>", "\n\n", "ST", "ART", " </think>", "!", "")
    pair = router(model(tokens), model(tokens), stop=["STOP"])
    assert pair.run("hi").answer == "START </think>!"


def test_behind_a_call_they_are_text_too() -> None:
    """The schema is the call's, and the tags around it are the router's."""
    call = '{"name": "look", "arguments": {}}'
    after = {
        "": "Two.",
        "Two.": "</think>",
        "Two.</think>\n\n": "Hi.\n",
        "Two.</think>\n\nHi.\n": "<tool_call>",
        "Two.</think>\n\nHi.\n<tool_call>\n": call,
        f"Two.</think>\n\nHi.\n<tool_call>\n{call}\n</tool_call>": "</think>",
        f"Two.</think>\n\nHi.\n<tool_call>\n{call}\n</tool_call></think>": "!",
    }

    def made() -> ScriptedBackend:
        return ScriptedBackend(
            lambda text: (after.get(text.decode(), "").encode(), 0.0),
            generation_prompt=OPENED,
            supports_schema=True,
            template="<tool_call> </tool_call>",
        )

    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    spec = OutputSpec(tools=[{"type": "function", "function": function}])
    result = router(made(), made()).run("hi", spec)
    assert [called.name for called in result.tool_calls] == ["look"]
    assert result.answer == "Hi.\n</think>!"
