"""A LangGraph state graph: a routed model, a tool node, and a state that keeps who wrote what.

It prints what each node adds to the conversation and, at the end, how many tokens each of the two
models wrote in every call. It takes about half a minute on two cores.

Run: python examples/langchain/graph.py ["your question"]
"""

import operator
import sys
from typing import Annotated, Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from rich.console import Console
from rich.table import Table

from glimp_integrations import Trace
from langchain_glimp import ChatGlimpRouter

QUESTION = "What does a desk lamp cost?"
INSTRUCTION = SystemMessage(
    "You work in a shop and look prices up with a tool. Once it has returned the price, answer "
    "the customer in one sentence."
)
PRICES = {"bookshelf": "129.00", "desk lamp": "34.90", "office chair": "210.50"}


class State(MessagesState):
    traces: Annotated[list[Trace], operator.add]


@tool
def price_of(article: Literal["bookshelf", "desk lamp", "office chair"]) -> str:
    """Look up what an article costs."""
    return f"{PRICES[article]} euros"


def build(llm: ChatGlimpRouter) -> Any:
    """The graph: the model, the tools, the model again, until a reply calls no tool."""
    model = llm.bind_tools([price_of])

    def ask(state: State) -> dict[str, Any]:
        reply = model.invoke([INSTRUCTION, *state["messages"]])
        trace = Trace.model_validate(reply.response_metadata["glimprouter"])
        return {"messages": [reply], "traces": [trace]}

    graph = StateGraph(State)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([price_of]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


def main(question: str = QUESTION, max_tokens: int = 256) -> dict[str, Any]:
    graph = build(ChatGlimpRouter(temperature=0, max_tokens=max_tokens))
    state: dict[str, Any] = {"messages": [HumanMessage(question)]}
    for update in graph.stream(state, stream_mode=["updates", "values"]):
        match update:
            case "values", values:
                state = values
            case "updates", nodes:
                for node, added in nodes.items():
                    print(f"--> {node}")
                    added["messages"][-1].pretty_print()

    table = Table("call", "tokens: small", "large", "seconds", title="who wrote what")
    for number, trace in enumerate(state["traces"], 1):
        small, large = trace.tokens("small"), trace.tokens("large")
        table.add_row(str(number), str(small), str(large), f"{trace.seconds:.1f}")
    Console().print(table)
    return state


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
