"""Does the large model gain by drafts from its own text, without a second model?

    python benchmarks/self_speculation.py --n 6

llama.cpp can guess the next tokens from the text so far (its ``ngram`` kinds) and check several in
one pass. The large model alone writes answers to RAG questions, chains of thought, and an agent's
replies, greedy, with each kind of drafts and without. Every question is asked once by each arm, on
a server of its own: asked twice, a server would remember its own answer and draft it, which no user
gains by. Texts have to be the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import reasoning_gym
import xllamacpp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.agents import QUESTIONS
from benchmarks.example_programs import load_example
from glimp_integrations import GlimpRouter
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, ensure

KINDS = xllamacpp.common_speculative_type
ARMS = {
    "none": KINDS.COMMON_SPECULATIVE_TYPE_NONE,
    "ngram_simple": KINDS.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE,
    "ngram_map_k": KINDS.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K,
    "ngram_mod": KINDS.COMMON_SPECULATIVE_TYPE_NGRAM_MOD,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=6, help="questions of each task")
    parser.add_argument("--max-tokens", type=int, default=256)
    options = parser.parse_args()
    console = Console(width=110)
    routers = {arm: router(kind) for arm, kind in ARMS.items()}
    for one in routers.values():
        one.run("Hi", max_tokens=1)
    shown = Table("task", "drafts", "answers", "same text", "seconds", "over none", "median")
    for task, questions in tasks(options.n).items():
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        texts: dict[str, list[str]] = {arm: [] for arm in ARMS}
        for question in track(questions, task, console=console):
            for arm, one in routers.items():
                begun = time.perf_counter()
                answer = one.run(question, max_tokens=options.max_tokens)
                seconds[arm].append(time.perf_counter() - begun)
                texts[arm].append(answer.reasoning + answer.answer)
        for arm in ARMS:
            pairs = zip(seconds[arm], seconds["none"], strict=True)
            shown.add_row(
                task,
                arm,
                str(len(questions)),
                str(sum(a == b for a, b in zip(texts[arm], texts["none"], strict=True))),
                f"{sum(seconds[arm]):.0f}",
                f"{sum(seconds[arm]) / sum(seconds['none']):.2f}",
                f"{statistics.median(one / other for one, other in pairs):.2f}",
            )
    console.print(shown)
    console.print(
        f"{LARGE.model} Q4_K_M alone on llama.cpp, greedy, at most {options.max_tokens} tokens; "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )


def router(kind: Any) -> GlimpRouter:
    """The large model alone, with one kind of drafts."""
    drafts = xllamacpp.CommonParams().speculative
    drafts.types = [kind]
    large = LlamaCppBackend(
        ensure(LARGE), prompt_cache_mib=0, parallel=1, server_options={"speculative": drafts}
    )
    return GlimpRouter(ensure_small(), large, threshold=-1.0, temperature=0)


def ensure_small() -> LlamaCppBackend:
    """The small model, which is never asked for a token."""
    return LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1)


def tasks(n: int) -> dict[str, list[str]]:
    """Questions of each task, as texts."""
    rag = load_example("llamaindex", "rag")
    passages = [node.text for node in rag.passages(14_000)]
    asked = [
        rag.PROMPT.format(
            context_str="\n\n".join(
                f"Source {k + 1}:\n{text}" for k, text in enumerate(passages[3 * i : 3 * i + 3])
            ),
            query_str="What do these passages say about names, and which of them says most?",
        )
        for i in range(n)
    ]
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=n, seed=11)
    return {
        "RAG": asked,
        "chains": [item["question"] + " Think step by step." for item in problems],
        "agent questions": [question.text for question in QUESTIONS[:n]],
    }


if __name__ == "__main__":
    main()
