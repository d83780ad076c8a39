"""The bundled models here: routed, against the ideal, the authors' loop and the large model.

    python -m benchmarks.speed --n 20
    python -m benchmarks.speed --n 2 --max-tokens 60     # a quick look

Every problem is answered in turn, so that all arms see the same machine, every other time in the
opposite order. Its first answer says who writes what, and is not counted. A problem whose second
answer is another text (two nearly equal tokens, added up in another order) is left out:

- *routed*: what a user gets (strategy "auto");
- *two requests*: the authors' loop on the same decisions and text (arXiv 2601.05110, section 3):
  for every step one request for a token with its log-probabilities and one for the step, which
  ends at the server's stop string; then the answer;
- *large alone*.

Before each, both servers read another conversation, so that no arm finds the text of another in
their caches. *In the servers* is what their own timings come to: reading and writing, without what
lies between the requests. The client's processor time is what both models wait for where they
compute on all cores. rho is the measured time over the ideal: the tokens each model wrote and had
to read, at the price measured in the same run (``glimp_integrations.runtime.speed``, the median of
several).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import reasoning_gym
from openai import OpenAI
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glimp_integrations import GlimpRouter, Trace, io_loop
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.backends.base import Backend, Report, Request
from glimp_integrations.backends.http import endpoint
from glimp_integrations.backends.http.completion_stream import CompletionStream
from glimp_integrations.bench.run import evict_prompts
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.runtime.speed import PairSpeed, median
from glimp_integrations.weights import LARGE, SMALL, ensure

CALIBRATE_EVERY = 5
HAND_OVERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=20, help="problems")
    parser.add_argument("--seed", type=int, default=7, help="seed of the problem set")
    parser.add_argument("--threshold", type=float, default=1.0, help="nats")
    parser.add_argument("--max-tokens", type=int, default=240)
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--traces", type=Path, help="write the routed traces, one a line")
    options = parser.parse_args()
    console = Console(width=110)
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=options.n, seed=options.seed)
    small = LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1)
    large = LlamaCppBackend(ensure(LARGE), prompt_cache_mib=0, parallel=1)
    router = GlimpRouter(
        small,
        large,
        temperature=0,
        threshold=options.threshold,
        route="always",
        max_tokens=options.max_tokens,
    )
    router.run("Hi", max_tokens=1)
    speeds, rows = [], []
    with Progress(console=console) as progress:
        task = progress.add_task("problems", total=options.n)
        with suppress(KeyboardInterrupt):  # Ctrl-C: the figures of the problems so far
            for number, item in enumerate(problems):
                if number % CALIBRATE_EVERY == 0:
                    progress.update(task, description="measuring speed")
                    speeds.append(router.measure())
                    router.speed = None  # chosen as for a user who never measured
                progress.update(task, description=f"problem {number + 1}")
                question = f"{item['question']} Think step by step."
                rows.append(one(router, question, backwards=bool(number % 2)))
                progress.advance(task)
        speeds.append(router.measure())
        router.speed = None
    speed = median(speeds)
    if options.traces:
        options.traces.write_text("".join(f"{row['trace'].model_dump_json()}\n" for row in rows))
    for row in rows:
        trace = row.pop("trace")
        row["ideal"] = speed.ideal(trace)
    same = [row for row in rows if row["same"]]
    if not same:
        raise SystemExit("no problem was answered by the same text twice: nothing to compare")
    console.print(table(same))
    console.print(f"{len(rows) - len(same)} of {len(rows)} problems left out: their texts differ")
    alone_first, after_small = hand_overs(router)
    console.print(
        f"hand-over: the large model reads 50 words and writes a token in "
        f"{1000 * alone_first:.0f} ms, and in {1000 * after_small:.0f} ms right "
        "after a step of the small one"
    )
    one_by_one = [1000 * x for x in (speed.small.token, speed.large.token)]
    read = [1000 * x for x in (speed.small.prefill, speed.large.prefill)]
    console.print(
        f"ms per token, small and large: written {one_by_one[0]:.1f} and {one_by_one[1]:.1f}, "
        f"read {read[0]:.1f} and {read[1]:.1f}, log-probabilities {1000 * speed.logprobs:.2f}; "
        f"spread of the small model's {spread(speeds):.0%}\n"
        f"gsm_symbolic seed {options.seed}, n {len(rows)}, greedy, threshold {options.threshold} "
        f"nats; {SMALL.model} / {LARGE.model} Q4_K_M, llama.cpp; {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    if options.json:
        figures = {"speed": asdict(speed), "speeds": [asdict(s) for s in speeds], "rows": rows}
        options.json.write_text(json.dumps(figures, indent=1))
    for backend in (small, large):
        backend.close()


def one(router: GlimpRouter, question: str, *, backwards: bool) -> dict[str, Any]:
    """One problem in all arms; all have the decisions of an answer before them."""
    asyncio.run(evict_prompts(router))
    trace = router.run(question).trace
    row: dict[str, Any] = {
        "tokens": sum(s.tokens for s in trace.steps),
        "large_tokens": trace.tokens("large"),
        "steps": sum(s.entropy is not None for s in trace.steps),
        "large_steps": sum(s.entropy is not None and s.author == "large" for s in trace.steps),
        "requests": trace.requests,
        "discarded": trace.discarded_tokens,
        "trace": trace,
    }
    arms = [routed, two_requests, alone]
    for arm in reversed(arms) if backwards else arms:
        asyncio.run(evict_prompts(router))
        row.update(arm(router, question, trace))
    return row


def routed(router: GlimpRouter, question: str, before: Trace) -> dict[str, Any]:
    """What a user gets; ``same``: it came to the same text as before."""
    with told() as seconds:
        started, spent = time.perf_counter(), spent_on_streams()
        trace = router.run(question).trace
        whole, spent = time.perf_counter() - started, spent_on_streams() - spent
    same = [step.text for step in trace.steps] == [step.text for step in before.steps]
    return {
        "routed": whole,
        "routed_servers": sum(seconds.values()),
        "routed_client": spent,
        "same": same,
    }


def spent_on_streams() -> float:
    """Processor seconds that this process has taken for streams so far; its models' are apart."""

    async def so_far() -> float:
        return time.thread_time()

    return io_loop.call(so_far)


@contextmanager
def told() -> Iterator[dict[int, float]]:
    """Seconds of reading and writing that llama.cpp tells of the streams that are read inside."""
    seconds: dict[int, float] = {}
    streams: list[CompletionStream] = []  # kept, so that no two of them have the same id

    class Telling(CompletionStream):
        __slots__ = ()

        def _chunk(self, event: bytes, shape: type[Any]) -> Any:
            chunk = super()._chunk(event, shape)
            if timings := chunk.get("timings"):
                streams.append(self)
                seconds[id(self)] = in_servers(timings)
            return chunk

    before, endpoint.CompletionStream = endpoint.CompletionStream, Telling  # type: ignore[misc]
    try:
        yield seconds
    finally:
        endpoint.CompletionStream = before  # type: ignore[misc]


def in_servers(timings: Mapping[str, float]) -> float:
    """Seconds of one request, as llama.cpp tells them."""
    return float(timings["prompt_ms"] + timings["predicted_ms"]) / 1000


def hand_overs(router: GlimpRouter) -> tuple[float, float]:
    """Seconds the large model takes to read 50 words and write a token, both medians.

    Returns:
        With nothing before it for a while, and right after a step of the small model.
    """

    def seconds_of(backend: Backend, prompt: str, count: int) -> float:
        async def ask() -> float:
            started = time.perf_counter()
            request = Request(prompt, count, stop=("\n\n\n",))
            async with aclosing(backend.generate(request, Report())) as tokens:  # type: ignore[type-var]
                async for _ in tokens:
                    pass
            return time.perf_counter() - started

        return io_loop.call(ask)

    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(HAND_OVERS):
        start = f"{turn}: " + " ".join(f"word{i}" for i in range(50))
        for after_small in (False, True):
            seconds_of(router.large, start, 1)
            time.sleep(0.7)
            if after_small:
                seconds_of(router.small, start, 16)
            more = " ".join(f"{'more' if after_small else 'other'}{i}" for i in range(50))
            seconds[after_small].append(seconds_of(router.large, f"{start} {more}", 1))
    return statistics.median(seconds[False]), statistics.median(seconds[True])


def two_requests(router: GlimpRouter, question: str, trace: Trace) -> dict[str, Any]:
    """The authors' loop, replayed on a trace."""
    clients = {
        role: OpenAI(base_url=f"{backend.url}/v1", api_key=backend._key.get_secret_value())
        for role, backend in (("small", router.small), ("large", router.large))
    }
    checked = check_messages(question)
    prompts = {
        role: io_loop.call(lambda b=backend: b.render(checked)).text
        for role, backend in (("small", router.small), ("large", router.large))
    }
    for client in clients.values():
        client.models.list()
    text, tokens, servers = "", 0, 0.0
    started, spent = time.perf_counter(), time.thread_time()
    for step in trace.steps:
        if step.entropy is not None:
            glimpse = clients["small"].completions.create(
                model="small",
                prompt=prompts["small"] + text,
                max_tokens=1,
                logprobs=20,
                temperature=0,
            )
            servers += in_servers((glimpse.model_extra or {})["timings"])
        reply = clients[step.author].completions.create(
            model=step.author,
            prompt=prompts[step.author] + text,
            max_tokens=step.tokens,
            temperature=0,
            stop=["\n\n"] if step.entropy is not None else None,
        )
        tokens += reply.usage.completion_tokens if reply.usage else 0
        servers += in_servers((reply.model_extra or {})["timings"])
        text += step.text
    seconds, spent = time.perf_counter() - started, time.thread_time() - spent
    for client in clients.values():
        client.close()
    return {
        "two_requests_client": spent,
        "two_requests": seconds,
        "two_requests_tokens": tokens,
        "two_requests_servers": servers,
    }


def alone(router: GlimpRouter, question: str, _: Trace) -> dict[str, Any]:
    """The large model by itself."""
    started = time.perf_counter()
    trace = router.run(question, threshold=-1.0).trace
    return {"alone": time.perf_counter() - started, "alone_tokens": trace.tokens("large")}


def spread(speeds: list[PairSpeed]) -> float:
    values = [s.small.token for s in speeds]
    return (max(values) - min(values)) / statistics.median(values)


def table(rows: list[dict[str, Any]]) -> Table:
    def total(name: str) -> float:
        return sum(row[name] for row in rows)

    steps, tokens = total("steps"), total("tokens")
    per_token = 1000 * total("routed") / tokens
    alone_per_token = 1000 * total("alone") / total("alone_tokens")
    ratios = sorted(row["two_requests"] / row["routed"] for row in rows)
    shown = Table(title="the bundled models")
    shown.add_column("")
    shown.add_column("figure", justify="right")
    for name, value in (
        ("large steps", f"{total('large_steps') / steps:.0%} of {steps:.0f}"),
        ("large tokens", f"{total('large_tokens') / tokens:.0%} of {tokens:.0f}"),
        (
            "seconds: routed / ideal / two requests",
            f"{total('routed'):.1f} / {total('ideal'):.1f} / {total('two_requests'):.1f}",
        ),
        (
            "of them in the servers: routed / two requests",
            f"{total('routed_servers'):.1f} / {total('two_requests_servers'):.1f}",
        ),
        (
            "client's processor ms per token: routed / two requests",
            f"{1000 * total('routed_client') / tokens:.2f} / "
            f"{1000 * total('two_requests_client') / total('two_requests_tokens'):.2f}",
        ),
        ("rho routed", f"{total('routed') / total('ideal'):.3f}"),
        ("rho two requests", f"{total('two_requests') / total('ideal'):.3f}"),
        (
            "routed against two requests",
            f"{total('two_requests') / total('routed'):.3f}x "
            f"(median {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f})",
        ),
        ("tokens of two requests", f"{total('two_requests_tokens'):.0f}"),
        ("ms per token: routed / large alone", f"{per_token:.1f} / {alone_per_token:.1f}"),
        ("routed per token against large alone", f"{alone_per_token / per_token:.2f}x"),
        ("requests per 100 steps", f"{100 * total('requests') / steps:.0f}"),
        ("discarded tokens per step", f"{total('discarded') / steps:.2f}"),
    ):
        shown.add_row(name, value)
    return shown


if __name__ == "__main__":
    main()
