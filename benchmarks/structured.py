"""Structured output: does a grammar on the whole reply cost answers?

    python benchmarks/structured.py --n 20

Grade-school problems, answered as ``{"answer": number}``. *Bound from the first token* is what a
server does with a schema on its own; then the chain of thought is free and only the answer bound,
written by the large model alone and by the routed pair. One arm at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import reasoning_gym
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.conversation.prompt import build
from glimp_integrations.output.json_schema import checked
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.weights import LARGE, SMALL, ensure

SCHEMA = {"type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"]}
OUTPUT_ARGUMENTS = OutputSpec(schema=SCHEMA)
ARMS: dict[str, float | None] = {
    "large alone, bound from the first token": None,
    "large alone, free chain of thought": -1.0,
    "routed, free chain of thought": 1.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20, help="problems")
    parser.add_argument("--seed", type=int, default=7, help="seed of the problem set")
    parser.add_argument("--json", type=Path, help="write one line per answer")
    options = parser.parse_args()
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=options.n, seed=options.seed)
    small = LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1)
    large = LlamaCppBackend(ensure(LARGE), prompt_cache_mib=0, parallel=1)
    router = GlimpRouter(
        small, large, temperature=0, route="always", max_thinking_tokens=512, max_tokens=64
    )
    router.run("Hi", max_tokens=1)
    router.run("Hi", max_tokens=1, threshold=-1.0)
    console = Console(width=110)
    lines: list[dict[str, Any]] = []
    with Progress(console=console) as progress:
        task = progress.add_task("arms", total=len(ARMS) * options.n)
        for name, threshold in ARMS.items():
            progress.update(task, description=name)
            for item in problems:
                lines.append({"arm": name, **answered(router, threshold, item, problems)})
                progress.advance(task)
    small.close()
    large.close()
    console.print(table(lines, options.n))
    console.print(
        f"gsm_symbolic seed {options.seed}, n {options.n}, greedy; {SMALL.model} / {LARGE.model} "
        f"Q4_K_M on llama.cpp; {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )
    if options.json:
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def answered(router: GlimpRouter, threshold: float | None, item: Any, problems: Any) -> Any:
    """One problem in one arm."""
    started, text, share = time.perf_counter(), "", 1.0
    if threshold is None:
        text = io_loop.call(lambda: bound(router, item["question"]))
    else:
        result = router.run(item["question"], OUTPUT_ARGUMENTS, threshold=threshold)
        text, share = result.answer, result.trace.large_share
    seconds = time.perf_counter() - started
    try:
        number = json.loads(text)["answer"]
    except (ValueError, KeyError):
        return {"valid": False, "right": False, "share": share, "seconds": seconds}
    shown = f"{number:g}"
    right = problems.score_answer(shown, item) >= 0.99
    return {"valid": True, "right": right, "share": share, "seconds": seconds, "answer": shown}


async def bound(router: GlimpRouter, question: str) -> str:
    """The large model's whole reply, bound to the schema."""
    prompt = await build(router.large, [{"role": "user", "content": question}], OUTPUT_ARGUMENTS)
    request = Request(prompt.text, 64, schema=checked(SCHEMA, what="the schema"))
    async with aclosing(router.large.generate(request, Report())) as tokens:  # type: ignore[type-var]
        return "".join([token.text async for token in tokens])


def table(lines: list[dict[str, Any]], n: int) -> Table:
    shown = Table("arm", "valid", "right", "tokens by large", "time")
    base = sum(x["seconds"] for x in lines if x["arm"] == list(ARMS)[1])
    for name in ARMS:
        own = [line for line in lines if line["arm"] == name]
        shown.add_row(
            name,
            f"{sum(x['valid'] for x in own)}/{n}",
            f"{sum(x['right'] for x in own)}/{n}",
            f"{sum(x['share'] for x in own) / n:.0%}",
            f"{sum(x['seconds'] for x in own) / base:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
