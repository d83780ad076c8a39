"""Thoughts between tool calls, over LangChain: in the prompt, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    ToolMessage,
)
from real_templates import TemplatedTurns, source
from scripted_models import added
from scripts import CALL, get_weather, of_own_accord, tokens

from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM
from langchain_glimp._messages import to_messages

FIRST, SECOND = "I look at Paris", "Paris is sunny"
REPLIES = (
    tokens((FIRST, 0.1), ".\n", "</think>", "\n\n", *of_own_accord(CALL), ""),
    tokens((SECOND, 0.1), ".\n", "</think>", "\n\n", "Take a hat.", ""),
)
IN_PROMPT = f"<|im_start|>assistant\n<think>\n{FIRST}.\n</think>\n\n<tool_call>\n"
CALLS = [{"name": "get_weather", "args": {"city": "Paris"}, "id": "1", "type": "tool_call"}]


def turns(name: str) -> TemplatedTurns:
    return TemplatedTurns(
        *REPLIES,
        mark="<tool_response>\n",
        template=source("Qwen-Qwen3-0.6B"),
        generation_prompt="<|im_start|>assistant\n<think>\n",
        supports_schema=True,
        name=name,
    )


def chat(**options: Any) -> ChatGlimpRouter:
    return ChatGlimpRouter(small=turns("small"), large=turns("large"), temperature=0, **options)


def prompts(llm: Any) -> list[str]:
    """What both models went on from, the loop's end only."""
    requests = [*llm.router.small.requests, *llm.router.large.requests]
    return [r.prompt for r in requests if "<tool_response>\n" in r.prompt]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("keep", [None, "tool_loop", "always", "never"])
def test_an_agents_model_reads_why_it_called(keep: str | None, streaming: bool) -> None:
    llm = chat(streaming=streaming, **({"keep_reasoning": keep} if keep else {}))
    agent = create_agent(llm, [get_weather])
    messages = agent.invoke({"messages": [("user", "Weather in Paris?")]})["messages"]
    shown = prompts(llm)
    assert shown
    assert all((IN_PROMPT in prompt) == (keep != "never") for prompt in shown)
    assert not any(FIRST in prompt.replace(IN_PROMPT, "") for prompt in shown)
    called, answered = messages[1], messages[-1]
    assert called.tool_calls[0]["args"] == {"city": "Paris"}
    assert called.additional_kwargs["reasoning_content"] == f"{FIRST}.\n"
    # The reply holds its own thoughts, and the visible history none.
    assert answered.content == "Take a hat."
    assert answered.additional_kwargs["reasoning_content"] == f"{SECOND}.\n"
    assert FIRST not in answered.model_dump_json()
    assert not any(thought in m.text for m in messages for thought in (FIRST, SECOND))


def test_the_next_question_leaves_the_loop_behind() -> None:
    llm = chat()
    agent = create_agent(llm, [get_weather])
    state = agent.invoke({"messages": [("user", "Weather in Paris?")]})
    agent.invoke({"messages": [*state["messages"], HumanMessage("Thanks. And a coat?")]})
    for backend in (llm.router.small, llm.router.large):
        last = backend.prompts[-1]  # type: ignore[attr-defined]
        assert "And a coat?" in last
        assert FIRST not in last
        assert SECOND not in last


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_messages_that_were_streamed_carry_their_thoughts_once(version: str) -> None:
    llm = chat(output_version=version)
    called = added(list(llm.bind_tools([get_weather]).stream("Weather in Paris?")))
    result = ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])
    llm.bind_tools([get_weather]).invoke(["Weather in Paris?", called, result])
    shown = prompts(llm)
    assert shown
    assert all(prompt.count(FIRST) == 1 and IN_PROMPT in prompt for prompt in shown)


THOUGHT = "The user wants a hat."


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", additional_kwargs={"reasoning_content": THOUGHT}),
        AIMessageChunk("", additional_kwargs={"reasoning_content": THOUGHT}),
        ChatMessage(role="assistant", content="", additional_kwargs={"reasoning_content": THOUGHT}),
        AIMessage([{"type": "reasoning", "reasoning": THOUGHT}]),
        AIMessage([{"type": "thinking", "thinking": THOUGHT, "signature": "xyz"}]),
        AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": THOUGHT}}]),
        AIMessage(
            [
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "encrypted_content": "xyz",
                    "summary": [{"type": "summary_text", "text": THOUGHT}],
                },
            ]
        ),
        AIMessage(
            "",
            additional_kwargs={
                "reasoning": {"id": "rs_1", "summary": [{"type": "summary_text", "text": THOUGHT}]},
            },
        ),
        # Said twice, read once.
        AIMessage(
            [{"type": "reasoning", "reasoning": THOUGHT}, {"type": "text", "text": ""}],
            additional_kwargs={"reasoning_content": THOUGHT},
        ),
        AIMessage(
            [
                {"type": "thinking", "thinking": THOUGHT},
                {"type": "redacted_thinking", "data": "xyz"},
            ]
        ),
    ],
)
def test_thoughts_of_any_provider_are_text(message: BaseMessage) -> None:
    assert to_messages([message])[0]["reasoning_content"] == THOUGHT


def test_thoughts_in_several_blocks_stand_apart() -> None:
    blocks = [{"type": "thinking", "thinking": t} for t in ("One.", "Two.")]
    assert to_messages([AIMessage(blocks)])[0]["reasoning_content"] == "One.\n\nTwo."


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("hi"),
        AIMessage([{"type": "redacted_thinking", "data": "xyz"}]),
        AIMessage([{"type": "reasoning", "id": "rs_1", "summary": []}]),
        AIMessage("", additional_kwargs={"reasoning_content": ""}),
        HumanMessage("hi", additional_kwargs={"reasoning_content": THOUGHT}),
        ToolMessage("hi", tool_call_id="1", additional_kwargs={"reasoning_content": THOUGHT}),
    ],
)
def test_no_text_is_no_thought(message: BaseMessage) -> None:
    assert "reasoning_content" not in to_messages([message])[0]


def test_tokens_of_messages_are_those_the_large_model_reads() -> None:
    called = AIMessage("", additional_kwargs={"reasoning_content": THOUGHT}, tool_calls=CALLS)
    loop = [HumanMessage("Weather?"), called, ToolMessage("sunny", tool_call_id="1")]
    kept, dropped = chat(), chat(keep_reasoning="never")
    seams = len("<think>\n\n</think>\n\n")
    difference = kept.get_num_tokens_from_messages(loop) - dropped.get_num_tokens_from_messages(
        loop
    )
    assert difference == len(THOUGHT) + seams
    # Over: no part of the conversation any more.
    over = [*loop, AIMessage("Hat."), HumanMessage("Thanks.")]
    assert kept.get_num_tokens_from_messages(over) == dropped.get_num_tokens_from_messages(over)


def test_the_text_class_knows_the_setting() -> None:
    llm = GlimpRouterLLM(small=turns("small"), large=turns("large"), keep_reasoning="never")
    assert llm.keep_reasoning == "never"
