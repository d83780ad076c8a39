"""LangChain's and LlamaIndex's classes on such a pair, with a loop of tools."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool

from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM
from random_weights.pairs import Models

pytestmark = pytest.mark.bundled  # the vocabulary is read out of a bundled model's file

OPTIONS: dict[str, Any] = {"temperature": 0, "max_thinking_tokens": 12, "max_tokens": 200}
"""Room for a call with its arguments; free text is ended by the test."""


def is_even(number: int, sure: bool) -> str:
    """Whether a number is even."""
    return f"{number % 2 == 0}, {sure}"


@pytest.fixture
def pair(transformers: Models) -> dict[str, Any]:
    # llama.cpp's grammar takes blank lines without end, which are what these models like best.
    return dict(zip(("small", "large"), transformers.pair("qwen3"), strict=True))


def test_a_loop_of_tools_in_langchain(pair: dict[str, Any]) -> None:
    chat = ChatGlimpRouter(**pair, **OPTIONS)
    made = tool(is_even)
    asked: list[Any] = [HumanMessage("Is 8 even?")]
    said = chat.bind_tools([made], tool_choice="any").invoke(asked)
    assert isinstance(said, AIMessage) and said.additional_kwargs["reasoning_content"]
    (call,) = said.tool_calls
    result = made.invoke(call)
    assert isinstance(result, ToolMessage)
    chunks = list(chat.bind(max_tokens=12).stream([*asked, said, result]))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.content == "".join(str(chunk.content) for chunk in chunks)
    assert "think>" not in total.content
    assert total.usage_metadata is not None and total.usage_metadata["output_tokens"] > 0
    steps = total.response_metadata["glimprouter"]["steps"]
    assert steps[0]["place"] == "after_tool"


def test_a_loop_of_tools_in_llamaindex(pair: dict[str, Any]) -> None:
    llm = GlimpRouterLLM(**pair, **OPTIONS)
    made = FunctionTool.from_defaults(is_even)
    asked = ChatMessage("Is 8 even?")
    said = llm.chat_with_tools([made], asked, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(said)
    result = made(**call.tool_kwargs)
    told = ChatMessage(
        role="tool", content=str(result), additional_kwargs={"tool_call_id": call.tool_id}
    )
    history = [asked, said.message, told]
    *_, last = llm.stream_chat(history, max_tokens=12)
    assert last.message.content is not None and "think>" not in last.message.content
    assert last.raw["glimprouter"]["steps"][0]["place"] == "after_tool"
