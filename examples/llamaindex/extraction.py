"""Turn an order in plain words into a pydantic object, after a chain of thought.

It prints the reply step by step: the chain of thought, which is free text, then the answer, which a
grammar constrains to JSON that follows the schema. At the end it prints the validated object. It
takes about half a minute on two cores.

Run: python examples/llamaindex/extraction.py ["your text"]
"""

import sys

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel, Field
from rich.console import Console
from rich.panel import Panel
from rich.pretty import Pretty
from rich.text import Text

from glimp_integrations import RoutedAnswer
from llamaindex_glimp import GlimpRouterLLM, StepPrinter

TEXT = (
    "Hello, my name is Clara Bauer. Please send 4 packs of paper at 5 euros each and 2 bottles of "
    "ink at 12 euros each to my office in Linz. Thank you!"
)
QUESTION = "What does this order cost? Calculate step by step in words before you write the JSON."


class Item(BaseModel):
    name: str
    quantity: int = Field(ge=1)
    unit_price: int = Field(description="In euros.")


class Order(BaseModel):
    """An order by mail."""

    customer: str = Field(description="Full name.")
    items: list[Item]
    total: int = Field(description="What all items cost together, in euros.")
    city: str = Field(description="Where to send it.")


def main(
    text: str = TEXT, max_tokens: int = 512, max_thinking_tokens: int = 384
) -> tuple[Order, RoutedAnswer]:
    """Return the object, and the complete reply from which it was read."""
    console = Console(highlight=False)
    console.print(Panel(Text(text), title="text", title_align="left"))
    llm = GlimpRouterLLM(
        temperature=0,
        max_tokens=max_tokens,
        max_thinking_tokens=max_thinking_tokens,
        step_events=True,
    )
    # A structured LLM returns the object alone. Events show what was written before it.
    printer = StepPrinter(llm.threshold, console)
    handlers = get_dispatcher().event_handlers
    handlers.append(printer)
    try:
        response = llm.as_structured_llm(Order).chat([ChatMessage(f"{text}\n\n{QUESTION}")])
    finally:
        handlers.remove(printer)
    assert printer.result is not None

    console.print(
        Panel(Pretty(response.raw), title="object", title_align="left", border_style="green")
    )
    return response.raw, printer.result


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or TEXT)
