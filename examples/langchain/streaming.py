"""Text while it is written, asynchronously: each step in its author's colour.

It prints the steps while they are written, each under a line that says who writes it and why (the
entropy H of the small model's first token, and the threshold). At the end it prints the sum of the
streamed chunks: the chain of thought and the answer. The first words come after a few seconds; it
takes about half a minute on two cores.

Run: python examples/langchain/streaming.py ["your question"]
"""

import asyncio
import sys
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from langchain_glimp import ChatGlimpRouter, StepPrinter

QUESTION = "A cinema has 12 rows of 20 seats. 35 seats are empty. How many people are watching?"
INSTRUCTION = "Think step by step, without code. End with one sentence that answers the question."
PROMPT = ChatPromptTemplate.from_messages([("system", INSTRUCTION), ("user", "{question}")])


async def stream(question: str, console: Console, **settings: Any) -> list[AIMessage]:
    """Print the steps of one answer as they are written, and return its chunks."""
    # Step events are sent from the run of a chain. A model's own astream() has no run.
    llm = ChatGlimpRouter(step_events=True, **settings)
    chain = PROMPT | llm
    printer = StepPrinter(llm.threshold, console)
    chunks = chain.astream({"question": question}, config={"callbacks": [printer]})
    return [chunk async for chunk in chunks]


def main(
    question: str = QUESTION, max_tokens: int = 512, temperature: float = 0
) -> list[AIMessage]:
    console = Console(highlight=False)
    console.print(Panel(Text(question), title="question", title_align="left"))
    chunks = asyncio.run(stream(question, console, max_tokens=max_tokens, temperature=temperature))

    # The printer shows text at once. Chunks carry it when it is known whether it is reasoning.
    reasoning = "".join(c.additional_kwargs.get("reasoning_content", "") for c in chunks)
    answer = "".join(str(c.content) for c in chunks)
    console.rule(f"{len(chunks)} chunks add up to")
    console.print(Panel(Text(reasoning.strip(), "dim"), title="reasoning", title_align="left"))
    console.print(
        Panel(Text(answer.strip()), title="answer", title_align="left", border_style="green")
    )
    return chunks


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
