"""Two routed models as LlamaIndex's default LLM: one assignment, then it is used like any other.

It prints the answer, then the trace: who wrote which step of the chain of thought, and how unsure
the small model was at the step's start. It takes about half a minute on two cores.

Run: python examples/llamaindex/completion.py ["your question"]
"""

import sys

from llama_index.core import Settings
from llama_index.core.llms import CompletionResponse
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from glimp_integrations import Trace
from llamaindex_glimp import GlimpRouterLLM

QUESTION = (
    "A library owns 8 shelves of 15 books each and lends 45 of them. How many books are left?"
)
INSTRUCTION = "Think step by step, without code. End with one sentence that answers the question."


def main(
    question: str = QUESTION,
    max_tokens: int = 512,
    temperature: float = 0,
    threshold: float = 1.0,
) -> CompletionResponse:
    # Everything that LlamaIndex builds from here on uses it, unless another LLM is passed.
    Settings.llm = GlimpRouterLLM(
        threshold=threshold, temperature=temperature, max_tokens=max_tokens
    )
    response = Settings.llm.complete(f"{question}\n{INSTRUCTION}")

    console = Console(highlight=False)
    console.print(Panel(Text(question), title="question", title_align="left"))
    console.print(
        Panel(Text(response.text), title="answer", title_align="left", border_style="green")
    )
    Trace.model_validate(response.raw["glimprouter"]).show(console)
    return response


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
