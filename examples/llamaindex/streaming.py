"""Text while it is written, in two views: the chunks of the stream, and the steps.

For the first question it prints the chunks of ``stream_chat``: the chain of thought in grey, the
answer in green. For the second it prints the steps, each in its author's colour under a line that
says who writes it and why (the entropy H of the small model's first token, and the threshold). The
first words come after a few seconds; it takes less than a minute on two cores.

Run: python examples/llamaindex/streaming.py ["your question"]
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from llamaindex_glimp import GlimpRouterLLM, StepPrinter

QUESTION = "A cinema has 12 rows of 20 seats. 35 seats are empty. How many people are watching?"
SECOND = "A baker packs 7 boxes of 12 rolls each and sells 50 of them. How many rolls are left?"
INSTRUCTION = ChatMessage(
    "Think step by step, without code. End with one sentence that answers the question.",
    role="system",
)


@contextmanager
def listening(handler: BaseEventHandler) -> Iterator[None]:
    """Send every event of LlamaIndex to the handler, while the block runs."""
    handlers = get_dispatcher().event_handlers
    handlers.append(handler)
    try:
        yield
    finally:
        handlers.remove(handler)


def main(
    question: str = QUESTION,
    second: str = SECOND,
    max_tokens: int = 512,
    temperature: float = 0,
) -> tuple[list[ChatResponse], list[ChatResponse]]:
    """Return the chunks of both replies."""
    console = Console(highlight=False)
    llm = GlimpRouterLLM(step_events=True, temperature=temperature, max_tokens=max_tokens)

    console.print(Panel(Text(question), title="reasoning and answer", title_align="left"))
    chunks: list[ChatResponse] = []
    for chunk in llm.stream_chat([INSTRUCTION, ChatMessage(question)]):
        thought = chunk.additional_kwargs.get("thinking_delta") or ""
        console.print(Text(thought, "dim") + Text(chunk.delta or "", "green"), end="")
        chunks.append(chunk)
    console.print()

    console.print(Panel(Text(second), title="step by step", title_align="left"))
    with listening(StepPrinter(llm.threshold, console)):
        return chunks, list(llm.stream_chat([INSTRUCTION, ChatMessage(second)]))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
