"""A ReAct agent on the bundled models: a protocol in plain text, which no grammar binds."""

from __future__ import annotations

import pytest
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.workflow import AgentOutput, ReActAgent, ToolCallResult

from llamaindex_glimp import GlimpRouterLLM

# LlamaIndex's agents warn of what they do themselves.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step:DeprecationWarning",
)

# LlamaIndex's own header is too long for the embedded models: they copy the arguments of the
# example in it ("num_beams": 5) or the tool's schema.
HEADER = """You answer questions with tools:
{tool_desc}

Either call a tool, in three lines:

Thought: what is still to be found out
Action: one of {tool_names}
Action Input: its arguments as JSON, such as {{"name": "value"}}

Or, once an observation has told you, answer in two lines:

Thought: I can answer.
Answer: the answer
"""


def price_of(article: str) -> str:
    """Look up what an article costs."""
    return {"desk lamp": "34.90 euros"}.get(article, f"There is no {article}.")


async def test_a_react_agent_looks_up_and_answers() -> None:
    llm = GlimpRouterLLM(temperature=0, max_tokens=96)
    formatter = ReActChatFormatter(system_header=HEADER)
    agent = ReActAgent(tools=[price_of], llm=llm, formatter=formatter)
    handler = agent.run("What does a desk lamp cost?", max_iterations=4)
    events = [event async for event in handler.stream_events()]
    assert "34.90" in str(await handler)

    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [(r.tool_name, r.tool_kwargs) for r in results] == [
        ("price_of", {"article": "desk lamp"})
    ]
    outputs = [event for event in events if isinstance(event, AgentOutput)]
    assert len(outputs) == 2
    # H is 2.0 where it thinks of the call, and next to nothing once the answer is there.
    authors = [o.raw["glimprouter"]["steps"][0]["author"] for o in outputs]
    assert authors == ["large", "small"]
