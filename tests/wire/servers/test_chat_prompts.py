"""The prompts of chat services: a conversation and a text go in, and come out as they were."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends.http.protocols.chat import Echo, Turn, header
from glimp_integrations.backends.http.servers import DEEPSEEK, MISTRAL, OPENROUTER
from glimp_integrations.errors import ConfigError

TEXT = st.text(alphabet=st.one_of(st.characters(), st.sampled_from('\n\r\u2028\x85"\\{}<>/')))
NASTY = [
    "",
    "\n",
    "\r\n\u2028\x85",
    '{"messages": []}\n',
    "<think>\n",
    "</think>",
    '"\n"}\n<think>\n',
    "\ud83d half a pair",
    "\0",
]


def conversation(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


@given(st.lists(TEXT, min_size=1, max_size=3), TEXT, st.booleans())
def test_conversation_and_text_come_back_exactly(
    contents: list[str], text: str, thinks: bool
) -> None:
    if thinks and text.startswith("<think>"):
        text = "." + text
    turn = Turn.read(header(conversation(*contents), thinks=thinks) + text)
    assert turn.messages == conversation(*contents)
    assert (turn.thinks, turn.answer, turn.thought) == (thinks, text, "")


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_in_a_message_ends_the_conversation(nasty: str) -> None:
    turn = Turn.read(header(conversation(nasty), thinks=True) + f"<think>\n{nasty}thought")
    assert turn.messages[0]["content"] == nasty
    assert turn.thought + "</think>" * turn.closed + turn.answer == f"{nasty}thought"


@given(TEXT, TEXT)
def test_thought_and_answer_come_apart_at_the_closing_tag(thought: str, answer: str) -> None:
    thought = thought.replace("<", "")
    turn = Turn.read(
        header(conversation("hi"), thinks=True) + f"<think>\n{thought}</think>\n\n{answer}"
    )
    assert (turn.thought, turn.closed) == (thought, True)
    assert turn.answer == answer.lstrip("\n"), "the service writes the seam"
    open_turn = Turn.read(header(conversation("hi"), thinks=True) + f"<think>\n{thought}")
    assert (open_turn.thought, open_turn.closed, open_turn.answer) == (thought, False, "")


@pytest.mark.parametrize("profile", [DEEPSEEK, MISTRAL, OPENROUTER], ids=lambda f: f.name)
def test_text_of_a_model_that_does_not_think_keeps_its_tags(profile: Any) -> None:
    text = "<think>\nplain text here\n\n"
    (message,) = Turn.read(header(conversation("hi"), thinks=False) + text).continued_message(
        profile
    )
    assert message["content"] == text


@pytest.mark.parametrize("prompt", ["", "a", "<|im_start|>user\nhi", "[1, 2]\n", '{"a": 1}\n'])
def test_prompt_of_another_model_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="render"):
        Turn.read(prompt)


def test_only_documented_fields_of_messages_are_kept() -> None:
    messages = [{"role": "developer", "content": "a", "name": "x", "cache_control": {}}]
    assert json.loads(header(messages, thinks=False))["messages"] == [
        {"role": "system", "content": "a"}
    ]


# -- echoes ----------------------------------------------------------------------------------


def fed(text: str, stream: str, cuts: list[int]) -> str:
    echo, places = Echo(text), [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    return "".join(echo.feed(piece) for piece in pieces) + echo.rest()


@given(st.text(min_size=1), st.text(), st.lists(st.integers(0, 1000), max_size=5))
def test_repeated_text_is_taken_out_wherever_the_stream_is_cut(
    text: str, more: str, cuts: list[int]
) -> None:
    assert fed(text, text + more, cuts) == more


@given(st.text(alphabet="ab", min_size=1), st.text(alphabet="abc"), st.lists(st.integers(0, 99)))
def test_a_stream_without_echo_is_left_whole(text: str, stream: str, cuts: list[int]) -> None:
    if not stream.startswith(text):
        assert fed(text, stream, cuts) == stream


def test_echo_that_lost_its_blank_line_is_taken_out_all_the_same() -> None:
    assert fed("one\n\n", "one two", [2, 4]) == " two"
    assert fed("one\n\n", "one", []) == ""
