"""Agents of plain text over models that do not think in tags, at the defaults."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.workflow import AgentStream, CodeActAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from scripted_llms import AGENTS, CHATS, HI, ask, scripted
from scripts import HERMES, SPOKEN_TEXT, Listening, get_weather, model

from glimp_integrations.backends.base import Report, Request, Token
from llamaindex_glimp import GlimpRouterLLM

pytestmark = pytest.mark.filterwarnings(*AGENTS)

SUNNY = "It is sunny."
ACT = 'Thought: I need it.\n\nAction: get_weather\n\nAction Input: {"city": "Paris"}'
ANSWER = f"Thought: I can answer.\n\nAnswer: {SUNNY}\n\nBye."
CODE = "<execute>\nimport math\n\nx = math.sqrt(16)\n\nprint(x)\n</execute>"
OWN_HEADER = """Tools:\n{tool_desc}\nWrite
Thought: why
Action: one of {tool_names}
Action Input: JSON
or, at the end,
Thought: why
Answer: the answer"""


def pieces(text: str) -> list[str]:
    """Tokens of a reply: a step ends with its token."""
    return re.findall(r"(?s).+?\n\n|.+", text)


class InTurns(Listening):
    """Replies by whether a text is in the prompt yet."""

    def __init__(self, seen: str, first: str, then: str, **options: Any) -> None:
        super().__init__([], template=HERMES, generation_prompt="<assistant>\n", **options)
        self._seen = seen
        self._first, self._then = (model(*pieces(t), tags=False) for t in (first, then))

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self._next = (self._then if self._seen in request.prompt else self._first)._next
        return super().generate(request, report)


def untagged(seen: str, first: str, then: str, **options: Any) -> GlimpRouterLLM:
    models = {name: InTurns(seen, first, then, name=name) for name in ("small", "large")}
    return GlimpRouterLLM(**models, temperature=0, **options)


@pytest.mark.parametrize("header", [None, OWN_HEADER], ids=["LlamaIndex's", "own"])
@pytest.mark.parametrize("options", [{}, {"untagged_answer": "last_step"}], ids=["default", "set"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_react_sees_the_whole_reply(
    streaming: bool, options: dict[str, Any], header: str | None
) -> None:
    llm = untagged("Observation: Sunny in Paris.", ACT, ANSWER, **options)
    formatter = ReActChatFormatter(system_header=header) if header else ReActChatFormatter()
    agent = ReActAgent(tools=[get_weather], llm=llm, streaming=streaming, formatter=formatter)
    handler = agent.run("Is it sunny?")
    events = [event async for event in handler.stream_events()]
    assert str(await handler) == f"{SUNNY}\n\nBye."
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [result.tool_kwargs for result in results] == [{"city": "Paris"}]
    if streaming:
        streamed = [event for event in events if isinstance(event, AgentStream)]
        whole = SPOKEN_TEXT + ACT + SPOKEN_TEXT + ANSWER
        assert "".join(piece.delta for piece in streamed) == whole
        assert not any(piece.thinking_delta for piece in streamed)


@pytest.mark.parametrize("streaming", [True, False])
async def test_code_with_blank_lines_is_carried_out_whole(streaming: bool) -> None:
    codes: list[str] = []

    async def execute(code: str) -> str:
        codes.append(code)
        return "4.0"

    llm = untagged("4.0", CODE, SUNNY)
    agent = CodeActAgent(tools=[], llm=llm, code_execute_fn=execute, streaming=streaming)
    assert SUNNY in str(await agent.run("What is the root of 16?"))
    assert codes == ["import math\n\nx = math.sqrt(16)\n\nprint(x)"]


@pytest.mark.parametrize("way", CHATS)
async def test_a_call_s_own_stop_is_for_the_whole_reply(way: str) -> None:
    llm = scripted(*pieces(ACT), "\n\n", "Observation: made up", tags=False)
    response = await ask(way, llm, stop=["\nObservation"])
    assert response.message.content == f"{SPOKEN_TEXT}{ACT}\n"
    stopped = await ask(way, scripted(*pieces(ACT), tags=False, stop=["Input"]))
    assert stopped.message.content == "Action ", "a setting is no wish of the call"


@pytest.mark.parametrize("way", CHATS)
async def test_other_replies_end_with_their_answer(way: str) -> None:
    for messages in (HI, [ChatMessage("What does 'Action:' mean?")]):
        response = await ask(way, scripted(*pieces(ACT), tags=False), messages)
        assert response.message.content == 'Action Input: {"city": "Paris"}'


@pytest.mark.parametrize("way", CHATS)
async def test_the_call_itself_has_the_last_word(way: str) -> None:
    messages = [ChatMessage(OWN_HEADER, role="system"), *HI]
    response = await ask(
        way, scripted(*pieces(ACT), tags=False), messages, untagged_answer="last_step"
    )
    assert response.message.content == 'Action Input: {"city": "Paris"}'


async def test_what_was_said_before_is_no_instruction() -> None:
    messages = [*HI, ChatMessage(OWN_HEADER, role="assistant"), *HI]
    response = await ask("achat", scripted(*pieces(ACT), tags=False), messages)
    assert response.message.content == 'Action Input: {"city": "Paris"}'
