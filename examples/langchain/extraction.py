"""Turn an order in plain words into a pydantic object, after a chain of thought.

It prints the chain of thought, which is free text, then the validated object: a grammar constrains
the answer to JSON that follows the schema. It takes about half a minute on two cores.

Run: python examples/langchain/extraction.py ["your text"]
"""

import sys
from typing import Any

from pydantic import BaseModel, Field
from rich.console import Console
from rich.panel import Panel
from rich.pretty import Pretty
from rich.text import Text

from langchain_glimp import ChatGlimpRouter

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


def main(text: str = TEXT, max_tokens: int = 512, max_thinking_tokens: int = 384) -> dict[str, Any]:
    llm = ChatGlimpRouter(
        temperature=0, max_tokens=max_tokens, max_thinking_tokens=max_thinking_tokens
    )
    extract = llm.with_structured_output(Order, include_raw=True)
    output: Any = extract.invoke(f"{text}\n\n{QUESTION}")

    console = Console(highlight=False)
    console.print(Panel(Text(text), title="text", title_align="left"))
    thought = output["raw"].additional_kwargs.get("reasoning_content", "")
    console.print(Panel(Text(thought.strip(), "dim"), title="chain of thought", title_align="left"))
    console.print(
        Panel(
            Pretty(output["parsed"] or output["parsing_error"]),
            title="object",
            title_align="left",
            border_style="green",
        )
    )
    return output


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or TEXT)
