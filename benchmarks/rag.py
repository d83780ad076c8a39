"""Questions about a corpus: is the answer in the passage that the reply cites?

    python benchmarks/rag.py                # 30 questions, two pairs and the large model alone
    python benchmarks/rag.py --n 5 --json FILE
    python benchmarks/rag.py --arm "large alone" --arm "when it pays" --learn 10

The corpus is the language reference that ships with Python, the engine that of
``examples/llamaindex/rag.py``: MiniLM, Qdrant, ``CitationQueryEngine``. ``rag_questions.jsonl``
holds a pattern of each answer and words of the passage that tells it. The arms answer every
question in turn, each on models of its own: nobody finds another's prompt in a cache. The arm
``when it pays`` leaves routing where it does not, and learns from its first calls where that is;
``--learn`` leaves them out of the times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from llama_index.core.query_engine import CitationQueryEngine
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from qdrant_client import QdrantClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.example_programs import load_example
from glimp_integrations import RoutedAnswer
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, ensure
from llamaindex_glimp import GlimpRouterLLM, RoutedReplyEvent

HERE = Path(__file__).parent
ARMS: dict[str, dict[str, Any]] = {
    "routed": {"route": "always"},
    "when it pays": {"route": "when_it_pays"},
    "large alone": {"threshold": -1.0},
}


class Results(BaseEventHandler):
    """Every routed reply."""

    answers: list[RoutedAnswer] = []  # noqa: RUF012 - a pydantic field

    def handle(self, event: BaseEvent, **_: Any) -> None:
        if isinstance(event, RoutedReplyEvent):
            self.answers.append(event.result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=30, help="questions")
    parser.add_argument("--top", type=int, default=3, help="passages a question")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threshold", type=float, default=1.0, help="nats, of the pairs")
    parser.add_argument("--arm", choices=list(ARMS), action="append", help="default: all")
    parser.add_argument("--learn", type=int, default=0, help="questions left out of the times")
    parser.add_argument("--json", type=Path, help="write one line per reply")
    options = parser.parse_args()
    console = Console(width=110)
    rag = load_example("llamaindex", "rag")
    questions = all_questions()[: options.n]
    engines = {}
    results = Results()
    get_dispatcher().add_event_handler(results)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        client = QdrantClient(path=folder)
        index = rag.opened(client, rag.passages(14_000), console)
        for arm in options.arm or ARMS:
            settings = {
                "max_tokens": options.max_tokens,
                "step_events": True,
                "threshold": options.threshold,
                **ARMS[arm],
            }
            engines[arm] = engine_of(rag, index, options.top, **settings)
        with suppress(KeyboardInterrupt):  # Ctrl-C: the figures of the questions so far
            for item in track(questions, "questions", console=console):
                of_all = []
                for arm, engine in engines.items():
                    of_all.append({"arm": arm, **answer(engine, item, rag, results)})
                    if options.json:
                        with options.json.open("a", encoding="utf-8") as lines:
                            lines.write(json.dumps(of_all[-1], ensure_ascii=False) + "\n")
                rows += of_all
        client.close()
    console.print(table(rows, options.learn))
    console.print(
        f"{SMALL.model} / {LARGE.model} Q4_K_M on llama.cpp, greedy, threshold "
        f"{options.threshold} nats, {options.top} passages a question; "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )


def engine_of(rag: ModuleType, index: Any, top: int, **settings: Any) -> Any:
    """The example's query engine over a pair of its own, loaded."""
    llm = GlimpRouterLLM(
        small=LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1),
        large=LlamaCppBackend(ensure(LARGE), prompt_cache_mib=0, parallel=1),
        temperature=0,
        untagged_answer="whole",
        **settings,
    )
    llm.complete("Hi", max_tokens=1)  # loaded
    return CitationQueryEngine.from_args(
        index, llm, citation_qa_template=rag.PROMPT, similarity_top_k=top
    )


def all_questions() -> list[dict[str, str]]:
    """Each with a pattern of its answer, and words of the passage that tells it."""
    text = (HERE / "rag_questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answer(engine: Any, item: dict[str, str], rag: ModuleType, results: Results) -> dict[str, Any]:
    """One question, and what became of it."""
    results.answers.clear()
    started = time.perf_counter()
    response = engine.query(item["question"])
    seconds = time.perf_counter() - started
    cited = [node.text for node in rag.citations(response).values()]
    traces = [result.trace for result in results.answers]
    return {
        "question": item["question"],
        "reply": str(response),
        "retrieved": any(tells(node.text, item) for node in response.source_nodes),
        "answered": re.search(item["answer"], str(response)) is not None,
        "cites": bool(cited),
        "cited passage tells": any(tells(text, item) for text in cited),
        "small tokens": sum(trace.tokens("small") for trace in traces),
        "large tokens": sum(trace.tokens("large") for trace in traces),
        "calls": len(traces),
        "alone": sum(trace.route == "large_alone" for trace in traces),
        "seconds": seconds,
    }


def tells(passage: str, item: dict[str, str]) -> bool:
    """Whether a passage holds the answer."""
    return item["evidence"] in " ".join(passage.split())


def table(rows: list[dict[str, Any]], learn: int = 0) -> Table:
    """Totals of every arm; times without the first ``learn`` questions."""
    counts = ["retrieved", "answered", "cites", "cited passage tells"]
    sums = ["small tokens", "large tokens", "calls", "alone"]
    headings = ("seconds", "over large", "median")
    shown = Table("arm", "questions", *counts, *sums, *headings, title="RAG")
    arms = {
        arm: [r for r in rows if r["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in rows)
    }
    alone = [row["seconds"] for row in arms.get("large alone", [])][learn:]
    for arm, own in arms.items():
        took = [row["seconds"] for row in own][learn:]
        ratios = [one / other for one, other in zip(took, alone, strict=bool(alone))]
        shown.add_row(
            arm,
            str(len(own)),
            *(str(sum(row[name] for row in own)) for name in (*counts, *sums)),
            f"{sum(took):.0f}",
            f"{sum(took) / sum(alone):.2f}" if alone else "",
            f"{statistics.median(ratios):.2f}" if ratios else "",
        )
    return shown


if __name__ == "__main__":
    main()
