"""H by place: what the first thresholds of ``large_share`` are made of.

    python -m benchmarks.entropies --json FILE           # all tasks, a few dozen questions each
    python -m benchmarks.entropies --task gsm --task rag --n 5

The bundled pair answers the questions of other benchmarks, greedy, routed by a threshold: H of a
step depends on who wrote the steps before it. Of every glimpsed step, H is kept with its place: the
first of a reply, the first after a tool's result, a later one, or in the answer. A place is
described by 20 values, the quantiles at 2.5, 7.5 ... 97.5 %. The file has those for
``_MEASURED`` in ``glimp_integrations/method/priors.py``, where every task counts alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track
from rich.table import Table

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.bench import load_task
from glimp_integrations.method.large_share import quantile
from glimp_integrations.method.policy import Place, WrittenStep
from glimp_integrations.method.rule import Threshold
from glimp_integrations.weights import LARGE, SMALL, ensure

LEVELS = [(i + 0.5) / 20 for i in range(20)]
FEWEST = 20
"""Values below which a place of a task is not described: a quantile of few says nothing."""
MIXTURE_A = Path(__file__).parent / "results" / "mixture-a" / "manifest.json"
console = Console(width=110)

Values = dict[Place, list[float]]
"""H in nats by place."""
WORDINGS = ("", "Answer in one sentence.", "Be precise.", "Please be brief.", "Say it plainly.")
"""Added to a question that is asked again, so that it is another one."""


class Collecting:
    """The threshold, which also keeps what it has seen.

    Args:
        threshold: In nats.
        enough: Glimpsed steps, after which nothing more is asked; ``None``: there is no such limit.
    """

    name = "threshold"

    def __init__(self, threshold: float, enough: int | None = None) -> None:
        self.decide = Threshold(threshold).decide
        self.enough = enough
        self.seen: Values = {}

    def asked(self, questions: Sequence[Any], task: str) -> Iterator[Any]:
        """The questions with a progress bar, until enough was seen."""
        return takewhile(self._goes_on, track(questions, task, console=console))

    def forget(self) -> None:
        """Begin again with nothing seen."""
        self.seen.clear()

    def _goes_on(self, _: Any) -> bool:
        return self.enough is None or sum(map(len, self.seen.values())) < self.enough

    def learn(self, steps: Sequence[WrittenStep]) -> None:
        """A reply is over; these are its steps."""
        for step in steps:
            if step.entropy is not None:
                self.seen.setdefault(step.place, []).append(step.entropy)


def in_rounds(questions: Sequence[str], n: int) -> list[str]:
    """``n`` questions: all of them, then all in other words, as long as there are such."""
    rounds = (f"{question} {words}".rstrip() for words in WORDINGS for question in questions)
    return [question for question, _ in zip(rounds, range(n), strict=False)]


def settings_of(policy: Collecting) -> dict[str, Any]:
    return {"policy": policy, "route": "always"}


def gsm(policy: Collecting, n: int, seed: int) -> None:
    """Grade-school maths, as ``benchmarks/arms.py`` asks it."""
    answer("gsm_symbolic", "steps", {"max_tokens": 1024}, policy, n, seed)


def mixture_a(policy: Collecting, n: int, seed: int) -> None:
    """Sums and products, as in the results."""
    manifest = json.loads(MIXTURE_A.read_text(encoding="utf-8"))
    family, style = manifest["task_identity"]["family"], manifest["answer_format"]
    answer(family, style, manifest["settings"], policy, n, seed)


def answer(
    name: str, style: str, settings: Mapping[str, Any], policy: Collecting, n: int, seed: int
) -> None:
    """The questions of a task of ``glimp bench``."""
    task = load_task(name, n=n, seed=seed, format=style)
    small, large = (LlamaCppBackend(ensure(f), prompt_cache_mib=0, parallel=1) for f in PAIR)
    own = {"temperature": 0, "untagged_answer": "whole", **settings, **settings_of(policy)}
    router = GlimpRouter(small, large, **own)
    for item in policy.asked(task.items, name[:20]):
        router.run(task.messages(item))
    small.close(), large.close()


def rag(policy: Collecting, n: int, _: int) -> None:
    """Questions about passages, as in ``benchmarks/rag.py``."""
    from qdrant_client import QdrantClient

    from benchmarks import rag as benchmark
    from benchmarks.example_programs import load_example

    program = load_example("llamaindex", "rag")
    with tempfile.TemporaryDirectory() as folder:
        client = QdrantClient(path=folder)
        index = program.opened(client, program.passages(14_000), console)
        own = {"max_tokens": 128, **settings_of(policy)}
        engine = benchmark.engine_of(program, index, 3, **own)
        policy.forget()  # the greeting that loads the models
        questions = in_rounds([item["question"] for item in benchmark.all_questions()], n)
        for question in policy.asked(questions, "rag"):
            engine.query(question)
        client.close()


def agents(policy: Collecting, n: int, _: int) -> None:
    """Questions to an agent with tools, as in ``benchmarks/agents.py``."""
    from benchmarks import agents as benchmark

    agent = benchmark.agent_of(**settings_of(policy))
    questions = in_rounds([question.text for question in benchmark.QUESTIONS], n)
    for text in policy.asked(questions, "agents"):
        benchmark.ask(agent, "routed", benchmark.Question(text, "", 0))


PAIR = (SMALL, LARGE)
TASKS: dict[str, Callable[[Collecting, int, int], None]] = {
    "gsm": gsm,
    "mixture-a": mixture_a,
    "rag": rag,
    "agents": agents,
}


def described(values: Sequence[float]) -> list[float]:
    """Twenty equally likely values, in nats."""
    ordered = sorted(values)
    return [round(quantile(ordered, level), 4) for level in LEVELS]


def pooled(tasks: Iterable[Values], fewest: int = FEWEST) -> dict[Place, list[float]]:
    """The places of all tasks, a task with many steps counting no more than one with few."""
    found: dict[Place, list[float]] = {}
    for task in tasks:
        for place, values in task.items():
            if len(values) >= fewest:
                found.setdefault(place, []).extend(described(values))
    return {place: described(found[place]) for place in get_args(Place) if place in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all")
    parser.add_argument("--n", type=int, default=30, help="questions of a task, at most")
    parser.add_argument("--seed", type=int, default=7, help="of the questions")
    parser.add_argument("--threshold", type=float, default=1.0, help="nats")
    parser.add_argument("--fewest", type=int, default=FEWEST, help="values that describe a place")
    parser.add_argument("--json", type=Path, help="write what priors.py can take")
    options = parser.parse_args()
    seen: dict[str, Values] = {}
    for name in options.task or TASKS:
        policy = Collecting(options.threshold)
        TASKS[name](policy, options.n, options.seed)
        seen[name] = policy.seen
    console.print(table(seen))
    console.print(
        f"threshold {options.threshold:g} nats, at most {options.n} questions a task, seed "
        f"{options.seed}; {SMALL.model} / {LARGE.model} Q4_K_M, topk_renorm@20, greedy; "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )
    if options.json:
        data = {SMALL.model.lower(): pooled(seen.values(), options.fewest)}
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def table(seen: Mapping[str, Values]) -> Table:
    """Every task and place with its quantiles."""
    shown = Table("task", "place", "n", "H in nats, quantiles at 2.5, 7.5 ... 97.5 %", title="H")
    for task, places in seen.items():
        for place in get_args(Place):
            if values := places.get(place, []):
                numbers = " ".join(f"{value:.3g}" for value in described(values))
                shown.add_row(task, place, str(len(values)), numbers)
    return shown


if __name__ == "__main__":
    main()
