"""Agents whose model wrote a call that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from scripted_llms import AGENTS, HI, TOOLS, scripted
from scripts import CALL, ROUTED, Turns, clock, of_own_accord

from llamaindex_glimp import GlimpRouterLLM

pytestmark = pytest.mark.filterwarnings(*AGENTS)

SUNNY = "It is sunny."
# A quote is missing, and a name.
BROKEN = ["<tool_call>", '{"name": "get_weather", "arguments": {"city: "Paris"}}', "\n</tool_call>"]
NAMELESS = ["<tool_call>", "the weather of Paris", "\n</tool_call>"]
asked: list[str] = []


def get_weather(city: str = "nowhere") -> str:
    """Weather of a city."""
    asked.append(city)
    return f"Sunny in {city}."


def in_turns(*turns: list[str], **options: Any) -> GlimpRouterLLM:
    models = {name: Turns(*turns, name=name, supports_schema=False) for name in ("small", "large")}
    return GlimpRouterLLM(**models, **ROUTED, **options)


@pytest.fixture(autouse=True)
def _nobody_asked() -> None:
    asked.clear()


@pytest.mark.parametrize("before", [[], ["Look."]], ids=["alone", "behind text"])
@pytest.mark.parametrize("broken", [BROKEN, NAMELESS], ids=["broken", "nameless"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("workflow", [True, False])
async def test_the_model_sees_the_error_and_tries_again(
    workflow: bool, streaming: bool, broken: list[str], before: list[str]
) -> None:
    llm = in_turns([*before, *broken], of_own_accord(CALL, supports_schema=False), [SUNNY])
    agent: Any = FunctionAgent(tools=[get_weather, clock], llm=llm, streaming=streaming)
    if workflow:
        agent = AgentWorkflow(agents=[agent])
    handler = agent.run("Is it sunny?")
    results = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    assert str(await handler) == SUNNY
    assert asked == ["Paris"], "what cannot be read is not carried out, with defaults or without"
    assert [result.tool_output.is_error for result in results] == [True, False]
    assert "write the call again" in str(results[0].tool_output.content)
    # It sees what it wrote, and what was wrong.
    conversation = next(said for said in llm.large.conversations if len(said) == 3)
    assert [message["role"] for message in conversation] == ["user", "assistant", "tool"]
    assert "Paris" in str(conversation[1])
    assert str(conversation[1]["content"]).startswith("".join(before))
    told = conversation[2]["content"]
    assert ("not a JSON object" if broken is BROKEN else "this is not a tool call") in told


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_good_call_beside_it_is_carried_out(streaming: bool) -> None:
    both = [*of_own_accord(CALL, supports_schema=False), *BROKEN]
    llm = in_turns(both, ["?"], [SUNNY])
    agent = FunctionAgent(tools=[get_weather], llm=llm, streaming=streaming)
    output = await agent.run("Is it sunny?")
    assert (str(output), asked) == (SUNNY, ["Paris"])
    roles = [message["role"] for message in llm.large.conversations[-1]]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert len(llm.large.conversations[-1][1]["tool_calls"]) == 2


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_model_that_never_learns_ends_with_an_error(streaming: bool) -> None:
    llm = in_turns(*[BROKEN] * 5)
    agent = FunctionAgent(tools=[get_weather], llm=llm, streaming=streaming)
    with pytest.raises(Exception, match="Max iterations of 4"):
        await agent.run("Is it sunny?", max_iterations=4)
    assert asked == []


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_call_that_was_cut_off_is_an_error_at_once(streaming: bool) -> None:
    cut = ["<tool_call>", *CALL]
    llm = in_turns(cut, max_tokens=3)
    agent = FunctionAgent(tools=[get_weather], llm=llm, streaming=streaming)
    with pytest.raises(ValueError, match=r"cut off inside a tool call: raise max_tokens"):
        await agent.run("Is it sunny?")
    assert asked == []


def test_what_nobody_answered_is_not_shown_again() -> None:
    message = scripted("Look.", *BROKEN, supports_schema=False).chat_with_tools(TOOLS, "hi").message
    after = scripted("I see.")
    after.chat([*HI, message, ChatMessage("What?")])
    assert after.large.conversations[0][1] == {"role": "assistant", "content": "Look."}
