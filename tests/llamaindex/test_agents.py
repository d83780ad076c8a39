"""LlamaIndex's agents over the routed pair."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel
from scripted_llms import AGENTS, scripted
from scripts import (
    CALL,
    HERMES,
    NOON,
    OPENED,
    REASONING,
    Listening,
    Turns,
    answer,
    bound,
    callable_names,
    clock,
    demanded,
    get_weather,
    model,
    of_own_accord,
)

from glimp_integrations.backends.base import Report, Request, Token
from llamaindex_glimp import GlimpRouterLLM

pytestmark = pytest.mark.filterwarnings(*AGENTS)

SUNNY = "It is sunny."


def in_turns(*turns: list[str], **options: Any) -> GlimpRouterLLM:
    models = {name: Turns(*turns, name=name) for name in ("small", "large")}
    return GlimpRouterLLM(**models, temperature=0, **options)


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_calls_and_answers(streaming: bool) -> None:
    llm = in_turns(["Look.", *of_own_accord(CALL)], [SUNNY])
    agent = FunctionAgent(tools=[get_weather], llm=llm, streaming=streaming, system_prompt="Brief.")
    handler = agent.run("Is it sunny?")
    events = [event async for event in handler.stream_events()]
    output = await handler
    assert str(output) == SUNNY
    assert [call.tool_kwargs for call in output.tool_calls] == [{"city": "Paris"}]
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [str(result.tool_output) for result in results] == ["Sunny in Paris."]
    conversation = llm.large.conversations[-1]
    assert [message["role"] for message in conversation] == ["system", "user", "assistant", "tool"]
    assert conversation[2]["tool_calls"][0]["id"] == conversation[3]["tool_call_id"]
    assert conversation[3]["content"] == "Sunny in Paris."
    pieces = [event for event in events if isinstance(event, AgentStream)]
    if streaming:
        assert "".join(piece.thinking_delta or "" for piece in pieces) == REASONING * 2
        assert "".join(piece.delta for piece in pieces) == f"Look.{SUNNY}"
        assert pieces[-1].raw["finish_reason"] == "stop"


async def test_a_conversation_goes_on_and_can_be_stored() -> None:
    llm = in_turns(of_own_accord(CALL), [SUNNY])
    agent = FunctionAgent(tools=[get_weather], llm=llm)
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    assert str(await agent.run("Is it sunny?", memory=memory)) == SUNNY
    assert str(await agent.run("And now?", memory=memory)) == SUNNY
    said = [(m["role"], m["content"]) for m in llm.large.conversations[-1] if m["content"]]
    assert said[:3] == [
        ("user", "Is it sunny?"),
        ("tool", "Sunny in Paris."),
        ("assistant", SUNNY),
    ]
    for message in memory.get_all():
        assert ChatMessage.model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize("streaming", [True, False])
async def test_the_first_call_may_be_chosen(streaming: bool) -> None:
    llm = in_turns(demanded(NOON), ["It is noon."])
    agent = FunctionAgent(
        tools=[get_weather, clock], llm=llm, initial_tool_choice="clock", streaming=streaming
    )
    assert str(await agent.run("What time is it?")) == "It is noon."
    # Of both turns, only the first was bound to this one call.
    assert [callable_names(request.schema) for request in bound(llm.large)] == [["clock"]]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_may_have_no_tools(streaming: bool) -> None:
    agent = FunctionAgent(tools=[], llm=scripted("Hello."), streaming=streaming)
    assert str(await agent.run("hi")) == "Hello."


@pytest.mark.parametrize("streaming", [True, False])
async def test_several_calls_at_once(streaming: bool) -> None:
    llm = in_turns([*of_own_accord(CALL), *of_own_accord(NOON)], ["?"], ["Sunny at noon."])
    agent = FunctionAgent(
        tools=[get_weather, clock],
        llm=llm,
        allow_parallel_tool_calls=True,
        streaming=streaming,
    )
    assert str(await agent.run("hi")) == "Sunny at noon."


async def test_agents_hand_over() -> None:
    over = ['{"name": "handoff", ', '"arguments": {"to_agent": "other", "reason": "so"}}']
    llm = in_turns(of_own_accord(over), ["Done."])
    first = FunctionAgent(
        name="first", description="one", tools=[clock], llm=llm, can_handoff_to=["other"]
    )
    other = FunctionAgent(name="other", description="two", tools=[clock], llm=llm)
    output = await AgentWorkflow(agents=[first, other], root_agent="first").run("hi")
    assert (str(output), output.current_agent_name) == ("Done.", "other")


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


async def test_an_agent_s_output_may_be_an_object() -> None:
    llm = scripted(*answer(['{"name": "Anna", ', '"age": 34}']))
    agent = FunctionAgent(tools=[], llm=llm, output_cls=Person)
    output = await agent.run("Who?")
    assert output.get_pydantic_model(Person) == Person(name="Anna", age=34)


async def test_an_agent_that_cannot_call_gets_an_error() -> None:
    agent = FunctionAgent(tools=[clock], llm=scripted("x", is_function_calling_model=False))
    with pytest.raises(ValueError, match="must be a FunctionCallingLLM"):
        await agent.run("hi")


class Observing(Listening):
    """Replies by whether ReAct's observation is there."""

    first = model('Thought: I need it.\nAction: get_weather\nAction Input: {"city": "Paris"}')
    then = model(f"Thought: I can answer.\nAnswer: {SUNNY}")

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        seen = "Observation: Sunny in Paris." in request.prompt
        self._next = (self.then if seen else self.first)._next
        return super().generate(request, report)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_acts(streaming: bool) -> None:
    options = {"template": HERMES, "generation_prompt": OPENED}
    llm = GlimpRouterLLM(small=Observing([], **options), large=Observing([], **options))
    agent = ReActAgent(tools=[get_weather], llm=llm, streaming=streaming)
    handler = agent.run("Is it sunny?")
    results = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    assert str(await handler) == SUNNY
    assert [result.tool_kwargs for result in results] == [{"city": "Paris"}]
