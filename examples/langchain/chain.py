"""A LangChain chain with a routed model in it: prompt | model | parser.

It prints the answer, then the trace: who wrote which step of the chain of thought, and how unsure
the small model was at the step's start. It takes about half a minute on two cores.

Run: python examples/langchain/chain.py ["your question"]
"""

import sys
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from glimp_integrations import Trace
from langchain_glimp import ChatGlimpRouter

QUESTION = (
    "A baker packs 7 boxes of 12 rolls each and sells 50 of the rolls. How many rolls are left?"
)
INSTRUCTION = "Think step by step, without code. End with one sentence that answers the question."
PROMPT = ChatPromptTemplate.from_messages([("system", INSTRUCTION), ("user", "{question}")])


def trace_of(message: AIMessage) -> Trace:
    """The trace of a message, from its metadata."""
    return Trace.model_validate(message.response_metadata["glimprouter"])


def main(
    question: str = QUESTION,
    max_tokens: int = 512,
    temperature: float = 0,
    threshold: float = 1.0,
) -> dict[str, Any]:
    llm = ChatGlimpRouter(threshold=threshold, temperature=temperature, max_tokens=max_tokens)
    # Both branches get the same message of the model, which is called once.
    chain = PROMPT | llm | {"answer": StrOutputParser(), "trace": trace_of}
    outcome: dict[str, Any] = chain.invoke({"question": question})

    console = Console(highlight=False)
    console.print(Panel(Text(question), title="question", title_align="left"))
    console.print(
        Panel(Text(outcome["answer"]), title="answer", title_align="left", border_style="green")
    )
    outcome["trace"].show(console)
    return outcome


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
