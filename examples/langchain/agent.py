"""A LangChain agent that computes, counts days and counts words with tools.

It prints every message: the question, the call that the models decide on, what the tool returns,
and the answer. The reasoning is free text and routed. A call is constrained to the tool's schema by
a grammar, so it always parses. It takes about half a minute on two cores.

Run: python examples/langchain/agent.py ["your question"]
"""

import ast
import operator
import sys
from collections.abc import Callable
from datetime import date

from langchain.agents import create_agent
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool

from langchain_glimp import ChatGlimpRouter

QUESTION = "How many days are there between 2024-01-15 and 2024-03-01?"
INSTRUCTION = (
    "You answer questions with the help of tools. Once a tool has returned its result, answer the "
    "user in one sentence."
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


@tool
def calculator(expression: str) -> float:
    """Compute numbers with + - * / and brackets, such as "3 * (4 + 5)"."""
    return value_of(ast.parse(expression, mode="eval").body)


@tool
def days_between(start: date, end: date) -> int:
    """Count the days between two dates, each written as YYYY-MM-DD."""
    return (end - start).days


@tool
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


def main(question: str = QUESTION, max_tokens: int = 256) -> list[AnyMessage]:
    llm = ChatGlimpRouter(temperature=0, max_tokens=max_tokens)
    agent = create_agent(llm, [calculator, days_between, count_words], system_prompt=INSTRUCTION)
    messages: list[AnyMessage] = []
    # "values" yields all messages so far after every node of the agent.
    for state in agent.stream({"messages": [HumanMessage(question)]}, stream_mode="values"):
        for message in state["messages"][len(messages) :]:
            message.pretty_print()
        messages = state["messages"]
    return messages


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
