"""LangChain's agents of plain text over models that do not think in tags, at the defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_classic.agents import AgentExecutor, create_react_agent
from langchain_core.prompts import PromptTemplate
from langchain_core.tools import tool
from scripts import HERMES, SPOKEN_TEXT, Listening, model

from glimp_integrations.backends.base import Report, Request, Token
from langchain_glimp import ChatGlimpRouter

ACT = [
    "Thought: I need it.\n\n",
    "Action: get_weather\n\n",
    "Action Input: Paris",
    "\n\n",
    "Observation: Rain.",
]
ANSWER = ["Thought: I can answer.\n\n", "Final Answer: It is sunny.\n\n", "Bye."]
PROMPT = """Tools: {tools}
Question: the question
Thought: why
Action: one of [{tool_names}]
Action Input: the input
Observation: the result
Thought: I know it
Final Answer: the answer

Question: {input}
Thought:{agent_scratchpad}"""


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"Sunny in {city.strip()}."


class InTurns(Listening):
    """Replies by whether the observation is there."""

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        seen = "Observation: Sunny in Paris" in request.prompt
        self._next = model(*(ANSWER if seen else ACT), tags=False)._next
        return super().generate(request, report)


@pytest.mark.parametrize("stop", [True, ["Observation:"]])
def test_react_sees_the_whole_reply(stop: Any) -> None:
    models = {
        name: InTurns([], name=name, template=HERMES, generation_prompt="<assistant>\n")
        for name in ("small", "large")
    }
    llm = ChatGlimpRouter(**models, temperature=0)
    agent = create_react_agent(
        llm, [get_weather], PromptTemplate.from_template(PROMPT), stop_sequence=stop
    )
    executor = AgentExecutor(agent=agent, tools=[get_weather], return_intermediate_steps=True)
    result = executor.invoke({"input": "Is it sunny?"})
    assert result["output"] == "It is sunny.\n\nBye."
    assert [(a.tool, a.tool_input.strip(), seen) for a, seen in result["intermediate_steps"]] == [
        ("get_weather", "Paris", "Sunny in Paris.")
    ]


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_call_s_own_stop_is_for_the_whole_reply(way: str) -> None:
    models = model(*ACT, tags=False, name="tiny"), model(*ACT, tags=False, name="big")
    llm = ChatGlimpRouter(small=models[0], large=models[1], temperature=0).bind(
        stop=["\nObservation"]
    )
    if way == "invoke":
        text = llm.invoke("hi").content
    else:
        text = "".join(str(chunk.content) for chunk in llm.stream("hi"))
    assert text == SPOKEN_TEXT + "".join(ACT[:4]).removesuffix("\n")
