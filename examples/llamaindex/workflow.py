"""Two agents that share the work: a researcher looks a price up, then a writer tells the customer.

It prints which agent is at work, the tools that are called (handing off is one of them), the answer
and, at the end, how many tokens each of the two models wrote in every turn. It takes less than a
minute on two cores.

Run: python examples/llamaindex/workflow.py ["your question"]
"""

import asyncio
import sys
from typing import Any, Literal

from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentWorkflow,
    FunctionAgent,
    ToolCallResult,
)
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from glimp_integrations import Trace
from llamaindex_glimp import GlimpRouterLLM

QUESTION = "What does a desk lamp cost?"
PRICES = {"bookshelf": "129.00", "desk lamp": "34.90", "office chair": "210.50"}
# The last message that the next agent reads. With LlamaIndex's own text ("Please continue with the
# current request."), models as small as the bundled ones forget the question.
HANDOFF = "{reason} Now you are the {to_agent}: answer the customer."


def price_of(article: Literal["bookshelf", "desk lamp", "office chair"]) -> str:
    """Look up what an article costs."""
    return f"{PRICES[article]} euros"


def build(llm: GlimpRouterLLM) -> AgentWorkflow:
    """The two agents, and which of them may hand off to which."""
    researcher = FunctionAgent(
        name="researcher",
        description="Looks prices up.",
        system_prompt="You look up the price of an article with a tool. Once you know the price, "
        "hand off to the writer.",
        tools=[price_of],
        can_handoff_to=["writer"],
        llm=llm,
    )
    writer = FunctionAgent(
        name="writer",
        description="Writes the answer to the customer, once the price is known.",
        system_prompt="You work in a shop. Tell the customer the price that was found, in one "
        "friendly sentence.",
        can_handoff_to=[],
        llm=llm,
    )
    return AgentWorkflow(
        agents=[researcher, writer], root_agent="researcher", handoff_output_prompt=HANDOFF
    )


async def run(workflow: AgentWorkflow, question: str, console: Console) -> list[Any]:
    """Run the agents, print their events as they come, and return them."""
    handler = workflow.run(question, max_iterations=6)
    events: list[Any] = []
    async for event in handler.stream_events():
        events.append(event)
        match event:
            case AgentOutput():
                console.print(Text(f"{event.current_agent_name}: {event}", "green"))
            case ToolCallResult():
                called = f"  {event.tool_name} {event.tool_kwargs}"
                console.print(Text(f"{called}\n  -> {event.tool_output}", "yellow"))
    await handler
    return events


def main(question: str = QUESTION, max_tokens: int = 256) -> list[Any]:
    console = Console(highlight=False)
    console.print(Panel(Text(question), title="question", title_align="left"))
    llm = GlimpRouterLLM(temperature=0, max_tokens=max_tokens)
    events = asyncio.run(run(build(llm), question, console))

    table = Table("agent", "tokens: small", "large", "seconds", title="who wrote what")
    for event in events:
        if isinstance(event, AgentOutput):
            trace = Trace.model_validate(event.raw["glimprouter"])
            small, large = trace.tokens("small"), trace.tokens("large")
            seconds = f"{trace.seconds:.1f}"
            table.add_row(event.current_agent_name, str(small), str(large), seconds)
    console.print(table)
    return events


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
