"""Small alone, large alone, and routed with each strategy, on grade-school maths.

    python benchmarks/arms.py --n 10

One arm at a time; both servers start anew for each arm and keep no prompts, so that no arm
finds another's text in a cache. Times of arms are ratios of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import reasoning_gym
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, ensure

ARMS: dict[str, dict[str, Any]] = {
    "small alone": {"threshold": math.inf, "answer_by": "small"},
    "large alone": {"threshold": -1.0},
    "routed two_request": {"strategy": "two_request"},
    "routed fused": {"strategy": "fused"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10, help="problems")
    parser.add_argument("--seed", type=int, default=7, help="seed of the problem set")
    parser.add_argument("--threshold", type=float, default=1.0, help="nats, routed arms")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="write one line per answer")
    options = parser.parse_args()
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=options.n, seed=options.seed)
    names = options.arms.split(",")
    lines: list[dict[str, Any]] = []
    console = Console(width=130)
    with Progress(console=console) as progress:
        task = progress.add_task("arms", total=len(names) * options.n)
        for name in names:
            progress.update(task, description=name)
            settings = {"threshold": options.threshold, **ARMS[name]}
            for line in run_arm(name, settings, problems, options.max_tokens):
                lines.append(line)
                progress.advance(task)
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    console.print(table(names, lines))
    console.print(
        f"gsm_symbolic seed {options.seed}, n {options.n}, greedy, threshold "
        f"{options.threshold} nats (topk_renorm, k=20); {SMALL.model} / {LARGE.model} Q4_K_M; "
        f"{platform.machine()}, {len_cores()} cores"
    )


def run_arm(name: str, settings: dict[str, Any], problems: Any, max_tokens: int) -> Any:
    small = LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1)
    large = LlamaCppBackend(ensure(LARGE), prompt_cache_mib=0, parallel=1)
    settings = {"route": "always", **settings}
    router = GlimpRouter(small, large, temperature=0, max_tokens=max_tokens, **settings)
    try:
        router.run("Hi", max_tokens=1)  # load and warm both models
        router.run("Hi", max_tokens=1, threshold=-1.0)
        for item in problems:
            started = time.perf_counter()
            answer = router.run(item["question"] + " Think step by step.")
            yield record(name, time.perf_counter() - started, answer, item, problems)
    finally:
        small.close()
        large.close()


def record(
    name: str, seconds: float, answer: RoutedAnswer, item: Any, problems: Any
) -> dict[str, Any]:
    text = answer.reasoning + answer.answer
    trace = answer.trace
    return {
        "arm": name,
        "seconds": seconds,
        "small_tokens": trace.tokens("small"),
        "large_tokens": trace.tokens("large"),
        "discarded": trace.discarded_tokens,
        "requests": trace.requests,
        "steps": len(trace.steps),
        "large_steps": sum(s.author == "large" for s in trace.steps),
        "right": problems.score_answer(last_number(text), item) == 1.0,
        "stop_reason": trace.stop_reason,
        "decisions": [(s.author, s.entropy) for s in trace.steps],
        "text": text,
    }


def last_number(text: str) -> str:
    """The last number of a solution, as these problems ask for one."""
    import re

    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].replace(",", "").removesuffix(".00") if numbers else ""


def table(names: list[str], lines: list[dict[str, Any]]) -> Table:
    view = Table(title="arms")
    for column in (
        "arm",
        "right",
        "seconds",
        "vs large",
        "tokens small",
        "tokens large",
        "ms/token",
        "discarded",
        "requests",
        "large steps",
    ):
        view.add_column(column, justify="left" if column == "arm" else "right")
    total = {n: sum(x["seconds"] for x in lines if x["arm"] == n) for n in names}
    for name in names:
        mine = [x for x in lines if x["arm"] == name]
        kept = sum(x["small_tokens"] + x["large_tokens"] for x in mine)
        reference = total.get("large alone")
        view.add_row(
            name,
            f"{sum(x['right'] for x in mine)}/{len(mine)}",
            f"{total[name]:.1f}",
            f"{reference / total[name]:.2f}x" if reference else "",
            str(sum(x["small_tokens"] for x in mine)),
            str(sum(x["large_tokens"] for x in mine)),
            f"{1000 * total[name] / kept:.1f}",
            str(sum(x["discarded"] for x in mine)),
            str(sum(x["requests"] for x in mine)),
            f"{sum(x['large_steps'] for x in mine)}/{sum(x['steps'] for x in mine)}",
        )
    return view


def len_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


if __name__ == "__main__":
    main()
