"""A LlamaIndex agent that computes, counts days and counts words with tools.

It prints its events as they come: the reasoning, the call that the models decide on, what the tool
returns, and the answer. The reasoning is free text and routed. A call is constrained to the tool's
schema by a grammar, so it always parses. It takes about half a minute on two cores.

Run: python examples/llamaindex/function_agent.py ["your question"]
"""

import ast
import asyncio
import operator
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    FunctionAgent,
    ToolCall,
    ToolCallResult,
)
from pydantic import validate_call
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from llamaindex_glimp import GlimpRouterLLM

QUESTION = "How many days are there between 2024-01-15 and 2024-03-01?"
INSTRUCTION = (
    "You answer questions with the help of tools. Once a tool has returned its result, answer the "
    "user in one full sentence."
)
OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def value_of(node: ast.expr) -> float:
    """The value of numbers and the operations above. Nothing else that a model writes is run."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value_of(left), value_of(right))
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value_of(operand))
    raise ValueError(f"{ast.unparse(node)} is not arithmetic")


def calculator(expression: str) -> float:
    """Compute numbers with + - * / and brackets, such as "3 * (4 + 5)"."""
    return value_of(ast.parse(expression, mode="eval").body)


@validate_call  # JSON has no dates, so LlamaIndex passes texts. Here they become dates.
def days_between(start: date, end: date) -> int:
    """Count the days between two dates, each written as YYYY-MM-DD."""
    return (end - start).days


def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


async def run(agent: FunctionAgent, question: str, console: Console) -> list[Any]:
    """Run the agent, print its events as they come, and return them."""
    handler = agent.run(question)
    events: list[Any] = []
    async for event in handler.stream_events():
        events.append(event)
        match event:
            case AgentStream():
                console.print(Text(event.thinking_delta or "", "dim") + Text(event.delta), end="")
            case AgentOutput():
                console.print()
            case ToolCall():
                console.print(Text(f"calls {event.tool_name}: {event.tool_kwargs}", "yellow"))
            case ToolCallResult():
                console.print(Text(f"{event.tool_name} returns {event.tool_output}", "yellow"))
    await handler
    return events


def main(question: str = QUESTION, max_tokens: int = 256) -> list[Any]:
    console = Console(highlight=False)
    llm = GlimpRouterLLM(temperature=0, max_tokens=max_tokens)
    agent = FunctionAgent(
        llm=llm, tools=[calculator, days_between, count_words], system_prompt=INSTRUCTION
    )
    console.print(Panel(Text(question), title="question", title_align="left"))
    return asyncio.run(run(agent, question, console))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
