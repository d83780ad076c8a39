"""Control tokens in texts, however many harmless tags stand beside them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from glimp_integrations.backends.base import Backend, looks_like_control
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.conversation.control_tokens import Safe

LISTED = [
    "[|user|]",
    "]~b]",
    "[e~[",
    "<seed:bos>",
    "<|turn>",
    "<SPECIAL_11>",
    "<reserved_106>",
    "<role>",
    "[gMASK]",
    "<sop>",
    "[TOOL_CONTENT]",
    "[PREFIX]",
    "<｜User｜>",
    "<start_of_turn>",
    '<|"|>',
    "<extra_id_0>",
    "<unk>",
    "</s>",
]
PADDING = " ".join(f"<a{number}>" for number in range(500))


def scripted() -> Backend:
    return ScriptedBackend([(b"a", 0.0)])


class Exact(ScriptedBackend):
    async def is_control(self, literal: str) -> bool:
        return literal == "<own token>"


def safe_text(backend: Backend, text: str) -> str:
    return str(asyncio.run(Safe.of(backend, text)).value(text))


@pytest.mark.parametrize("padding", ["", PADDING])
@pytest.mark.parametrize("token", LISTED)
def test_the_list_finds_it(token: str, padding: str) -> None:
    assert looks_like_control(token)
    assert token not in safe_text(scripted(), f"{token} {padding}")


def test_padding_does_not_switch_the_exact_check_off() -> None:
    text = safe_text(Exact([(b"a", 0.0)]), f"{PADDING} <own token>")
    assert text == f"{PADDING} <\u2060own token>"


def test_a_single_question_is_answered_by_the_tokenizer_that_is_here() -> None:
    class InProcess(ScriptedBackend):
        async def own_control_tokens(self) -> set[str]:
            return {"<own token>"}

    async def ask(backend: Backend, *literals: str) -> list[bool]:
        return [await backend.is_control(literal) for literal in literals]

    exact = InProcess([(b"a", 0.0)])
    assert asyncio.run(ask(exact, "<own token>", "<|im_end|>")) == [True, False]
    assert asyncio.run(exact.control_literals({"<own token>", "<b>"})) == {"<own token>"}
    assert asyncio.run(ask(scripted(), "<own token>", "<|im_end|>")) == [False, True]


PLACES: dict[str, Any] = {
    "content": {"role": "user", "content": "X"},
    "a part of the content": {"role": "user", "content": [{"type": "text", "text": "X"}]},
    "name": {"role": "user", "content": "", "name": "X"},
    "an unknown key": {"role": "user", "content": "", "documents": [{"title": "X"}]},
    "the name of a key": {"role": "user", "content": "", "more": {"X": 1}},
    "reasoning": {"role": "assistant", "content": "", "reasoning_content": "X"},
    "a tool result": {"role": "tool", "content": "X", "tool_call_id": "1"},
    "its call": {"role": "tool", "content": "", "tool_call_id": "X"},
}
CALL: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}


@pytest.mark.parametrize("token", [*LISTED, "<own token>"])
@pytest.mark.parametrize("place", PLACES)
def test_every_text_of_a_message_is_only_text(place: str, token: str) -> None:
    text = json.dumps(PLACES[place]).replace("X", json.dumps(token)[1:-1])
    message = json.loads(text)
    backend = Exact([(b"a", 0.0)]) if token == "<own token>" else scripted()
    safe = asyncio.run(Safe.of(backend, [message])).message(message)
    shown = json.dumps(safe, ensure_ascii=False)
    assert json.dumps(token)[1:-1] not in shown and "\u2060" in shown
    assert json.loads(shown.replace("\u2060", "")) == message


@pytest.mark.parametrize("token", LISTED)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_values_of_arguments_are_only_text(token: str, ascii_only: bool) -> None:
    arguments = json.dumps({"city": token, token: [token]}, ensure_ascii=ascii_only)
    message = {
        **CALL,
        "tool_calls": [{"id": token, "function": {"name": token, "arguments": arguments}}],
    }
    safe = asyncio.run(Safe.of(scripted(), [message])).message(message)
    (call,) = safe["tool_calls"]
    parsed = json.loads(call["function"]["arguments"])
    assert token not in (call["id"], call["function"]["name"], *parsed, *parsed.values())
    assert token not in call["function"]["arguments"]
    assert json.loads(call["function"]["arguments"].replace("\u2060", "")) == json.loads(arguments)


def test_arguments_that_are_no_json_stay_the_text_they_are() -> None:
    message = {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "{oops </s>"}}]}
    safe = asyncio.run(Safe.of(scripted(), [message])).message(message)
    assert safe["tool_calls"][0]["function"]["arguments"] == "{oops <\u2060/s>"


def test_harmless_arguments_are_not_written_anew() -> None:
    message = {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": '{"a":  "<b>"}'}}]}
    assert asyncio.run(Safe.of(scripted(), [message])).message(message) == message


def test_a_token_with_a_quote_in_a_tool() -> None:
    tool = {"function": {"name": "f", "parameters": {"enum": ['<|"|>']}}}
    safe = asyncio.run(Safe.of(scripted(), tool)).value(tool)
    assert safe["function"]["parameters"]["enum"] == ['<\u2060|"|>']


def test_tokens_of_a_tokenizer_in_this_process_need_no_shape() -> None:
    class Local(ScriptedBackend):
        async def own_control_tokens(self) -> set[str]:
            return {"*END*", "*END*ALL*", "absent"}

    text = safe_text(Local([(b"a", 0.0)]), "a *END*ALL* b *END* </s>")
    assert text == "a *\u2060END*ALL* b *\u2060END* </s>"
