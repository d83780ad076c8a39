"""Control tokens in texts, however many harmless tags stand beside them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from glimp_integrations.backends.base import Backend, looks_like_control
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.conversation.control_tokens import neutralise, safe_tool

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


class Exact(ScriptedBackend):
    async def is_control(self, literal: str) -> bool:
        return literal == "<own token>"


@pytest.mark.parametrize("padding", ["", PADDING])
@pytest.mark.parametrize("token", LISTED)
def test_the_list_finds_it(token: str, padding: str) -> None:
    backend = ScriptedBackend([(b"a", 0.0)])
    assert looks_like_control(token)
    assert token not in asyncio.run(neutralise(backend, f"{token} {padding}"))


def test_padding_does_not_switch_the_exact_check_off() -> None:
    text = asyncio.run(neutralise(Exact([(b"a", 0.0)]), f"{PADDING} <own token>"))
    assert text == f"{PADDING} <\u2060own token>"


def test_a_token_with_a_quote_in_a_tool() -> None:
    tool = {"function": {"name": "f", "parameters": {"enum": ['<|"|>']}}}
    safe = asyncio.run(safe_tool(cast(Backend, ScriptedBackend([(b"a", 0.0)])), tool))
    assert safe["function"]["parameters"]["enum"] == ['<\u2060|"|>']


class LlamaServer(OpenAIBackend):
    server = SimpleNamespace(renders="apply-template")  # type: ignore[assignment]


@pytest.mark.parametrize(("token", "most"), [("", 1), (" <own token>", 20)])
def test_a_server_is_asked_by_halves(token: str, most: int) -> None:
    backend = LlamaServer("m", base_url="http://127.0.0.1:9/v1")
    asked: list[str] = []

    async def find_out(literal: str) -> bool:
        asked.append(literal)
        return "<own token>" in literal

    async def none() -> None: ...

    vars(backend).update(capabilities=none, _find_out_control=find_out)
    text = asyncio.run(neutralise(backend, PADDING + token))
    assert ("<\u2060own token>" in text) == bool(token)
    assert 0 < len(asked) <= most
