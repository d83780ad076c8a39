"""Thoughts between tool calls, over LlamaIndex: in the prompt, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.memory import ChatMemoryBuffer
from real_templates import TemplatedTurns, source
from scripted_llms import AGENTS, WEATHER, thoughts
from scripts import CALL, of_own_accord, tokens

from llamaindex_glimp import GlimpRouterLLM
from llamaindex_glimp._messages import to_messages

FIRST, SECOND = "I look at Paris", "Paris is sunny"
REPLIES = (
    tokens((FIRST, 0.1), ".\n", "</think>", "\n\n", *of_own_accord(CALL), ""),
    tokens((SECOND, 0.1), ".\n", "</think>", "\n\n", "Take a hat.", ""),
)
IN_PROMPT = f"<|im_start|>assistant\n<think>\n{FIRST}.\n</think>\n\n<tool_call>\n"


def turns(name: str) -> TemplatedTurns:
    return TemplatedTurns(
        *REPLIES,
        mark="<tool_response>\n",
        template=source("Qwen-Qwen3-0.6B"),
        generation_prompt="<|im_start|>assistant\n<think>\n",
        supports_schema=True,
        name=name,
    )


def prompts(llm: Any) -> list[str]:
    """What both models went on from, the loop's end only."""
    requests = [*llm.router.small.requests, *llm.router.large.requests]
    return [r.prompt for r in requests if "<tool_response>\n" in r.prompt]


@pytest.mark.filterwarnings(*AGENTS)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("keep", [None, "always", "never"])
async def test_an_agents_model_reads_why_it_called(keep: str | None, streaming: bool) -> None:
    options: dict[str, Any] = {"keep_reasoning": keep} if keep else {}
    llm = GlimpRouterLLM(small=turns("small"), large=turns("large"), temperature=0, **options)
    agent = FunctionAgent(tools=[WEATHER], llm=llm, streaming=streaming)
    memory = ChatMemoryBuffer.from_defaults(token_limit=10_000)
    answered = await agent.run("Weather in Paris?", memory=memory)
    shown = prompts(llm)
    assert shown
    assert all((IN_PROMPT in prompt) == (keep != "never") for prompt in shown)
    assert not any(FIRST in prompt.replace(IN_PROMPT, "") for prompt in shown)
    # The reply holds its own thoughts, and the visible history none.
    assert answered.response.content == "Take a hat."
    assert thoughts(answered.response) == [f"{SECOND}.\n"]
    history = await memory.aget()
    assert not any(t in (m.content or "") for m in history for t in (FIRST, SECOND))


THOUGHT = "The user wants a hat."


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content=THOUGHT)]),
        ChatMessage(
            role=MessageRole.ASSISTANT,
            blocks=[ThinkingBlock(content=THOUGHT), ThinkingBlock(), TextBlock(text="Hat.")],
            additional_kwargs={"reasoning_content": "the same, kept by an older integration"},
        ),
        ChatMessage("", role="assistant", additional_kwargs={"reasoning_content": THOUGHT}),
        ChatMessage("", role="assistant", additional_kwargs={"thinking": THOUGHT}),
    ],
)
def test_thoughts_come_from_blocks_or_beside_them(message: ChatMessage) -> None:
    result = to_messages([message])[0]
    assert result["reasoning_content"] == THOUGHT
    assert THOUGHT not in result["content"]


def test_thoughts_in_several_blocks_stand_apart() -> None:
    blocks = [ThinkingBlock(content="One."), ThinkingBlock(content="Two.")]
    [result] = to_messages([ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)])
    assert result["reasoning_content"] == "One.\n\nTwo."


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage("hi", role="assistant"),
        ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(), TextBlock(text="hi")]),
        ChatMessage("hi", role="assistant", additional_kwargs={"thinking": {"type": "enabled"}}),
    ],
)
def test_no_text_is_no_thought(message: ChatMessage) -> None:
    assert "reasoning_content" not in to_messages([message])[0]
