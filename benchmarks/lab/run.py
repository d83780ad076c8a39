"""Strategies against the authors' two-request loop, on scripted servers with given costs.

    python -m benchmarks.lab.run                     # all settings
    python -m benchmarks.lab.run --setting a100+50ms --steps 40
    python -m benchmarks.lab.run --trace benchmarks/lab/recorded.jsonl   # steps of real answers

Every arm answers the same script, so all decide and write alike. rho is the measured time over the
ideal: the tokens each model wrote and read, at their price, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from benchmarks.lab.baseline import answer
from benchmarks.lab.script import OPENED, Script, made_up, recorded
from benchmarks.lab.server import PROMPT_TOKENS, Costs, LabServer, serve
from glimp_integrations import GlimpRouter, Trace
from glimp_integrations.backends import OpenAIBackend

THRESHOLD = 1.0


class Outcome(NamedTuple):
    """What an arm came to; ``discarded``: small tokens that were read and thrown away."""

    seconds: float
    requests: int
    text: str
    discarded: int | None = None


Arm = Callable[[str, str, str, dict[str, Any]], Outcome]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + OPENED
)


@dataclass(frozen=True)
class Setting:
    """Two servers."""

    small: Costs
    large: Costs


def _apart(small: float, large: float, **shared: Any) -> Setting:
    return Setting(
        Costs(decode=small, prefill=small / 30, **shared),
        Costs(decode=large, prefill=large / 30, **shared),
    )


SETTINGS = {
    "a100": _apart(10, 33, request=4, logprob=0.1),
    "a100+50ms": _apart(10, 33, request=4, logprob=0.1, round_trip=50, connect=1),
    "hosted, 200 ms a request": _apart(5, 20, request=100, logprob=0.1, round_trip=100, connect=2),
}


@contextmanager
def servers(setting: Setting, scripts: list[Script]) -> Iterator[tuple[str, str]]:
    """Both servers in a process of their own, so that they take no time from the client."""
    ports = [free_port(), free_port()]
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(setting, scripts, ports), daemon=True
    )
    process.start()
    try:
        for port in ports:
            wait_for(port)
        yield f"http://127.0.0.1:{ports[0]}/v1", f"http://127.0.0.1:{ports[1]}/v1"
    finally:
        process.terminate()
        process.join()


def _serve(setting: Setting, scripts: list[Script], ports: list[int]) -> None:
    both = [LabServer("small", scripts, setting.small), LabServer("large", scripts, setting.large)]
    asyncio.run(serve(both, ports))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(1200):  # a minute: a busy machine takes long to start a process
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"no server on port {port}")


def ideal(script: Script, setting: Setting) -> float:
    """Seconds the decisions cost at least: tokens written, and tokens read, at their price.

    The models are apart: what one reads of the other's text is counted, as one of them waits for
    it at every change of hands.
    """
    seconds, author = 0.0, "small"
    unread = {"small": PROMPT_TOKENS, "large": PROMPT_TOKENS}
    costs = {"small": setting.small, "large": setting.large}
    starts = _starts(script)
    for place, (token, entropy) in enumerate(zip(script.tokens, script.entropies, strict=True)):
        if place in starts:
            if starts[place] == "answer":
                author = "large"
            else:
                # The glimpse reads what the small model has not read.
                seconds += costs["small"].prefill * unread["small"]
                unread["small"] = 0
                author = "large" if entropy > THRESHOLD else "small"
            seconds += costs[author].prefill * unread[author]
            unread[author] = 0
        seconds += costs[author].decode
        unread["large" if author == "small" else "small"] += bool(token)
    return seconds / 1000


def _starts(script: Script) -> dict[int, str]:
    """Where steps and the answer begin."""
    starts, starts_step, answering = {}, True, False
    for place, token in enumerate(script.tokens):
        if starts_step and not answering:
            starts[place] = "step"
        if token == "</think>":  # noqa: S105 - a tag, no secret
            starts[place + 1] = "answer"
            answering = True
        starts_step = token.endswith("\n\n")
    return starts


def routed(strategy: str, **settings: Any) -> Arm:
    """An arm of ours."""

    def run(small: str, large: str, question: str, options: dict[str, Any]) -> Outcome:
        models = [
            OpenAIBackend(name, base_url=url, server="vllm", chat_template=TEMPLATE, device=url)
            for name, url in (("small", small), ("large", large))
        ]
        options = {"temperature": 0, "strategy": strategy, "route": "always", **settings, **options}
        with GlimpRouter(*models, **options) as router:
            # What is asked once per server is not part of a conversation.
            router.run("chain 0")
            if strategy == "auto":
                router.measure()
            started = time.perf_counter()
            result = router.run(question)
            seconds, trace = time.perf_counter() - started, result.trace
            discarded = result.usage.small.output_tokens - trace.tokens("small")
            return Outcome(seconds, trace.requests, _text(trace), discarded)

    return run


def _text(trace: Trace) -> str:
    return "".join(step.text for step in trace.steps)


def reference(small: str, large: str, question: str, _: dict[str, Any]) -> Outcome:
    """The authors' loop."""
    clients = [OpenAI(base_url=url, api_key="none", max_retries=0) for url in (small, large)]
    for client in clients:
        client.models.list()  # connected, as ours is
    started = time.perf_counter()
    reply = answer(*clients, question, THRESHOLD)
    seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return Outcome(seconds, reply.requests, reply.text)


ARMS = {
    "authors' two requests": reference,
    "two_request": routed("two_request"),
    "fused": routed("fused"),
    "overlap": routed("overlap"),
    "overlap, kept warm": routed("overlap", warm_prefix_cache=True),
    "auto, measured": routed("auto"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-tokens", type=int, default=40)
    parser.add_argument("--answer-tokens", type=int, default=120)
    parser.add_argument("--large-share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", type=Path, help="replay the steps of recorded answers")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    console = Console(width=110)
    script = (
        recorded(options.trace, THRESHOLD, answer_tokens=options.answer_tokens)
        if options.trace
        else made_up(
            options.seed,
            steps=options.steps,
            step_tokens=options.step_tokens,
            large_share=options.large_share,
            answer_tokens=options.answer_tokens,
        )
    )
    warm = made_up(0, steps=1, step_tokens=4, large_share=0, answer_tokens=1)
    figures = {}
    for name in SETTINGS if options.setting == "all" else [options.setting]:
        figures[name] = measure(SETTINGS[name], [warm, script], options.arms, console, name)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def measure(
    setting: Setting, scripts: list[Script], arms: list[str], console: Console, name: str
) -> dict[str, Any]:
    bound = ideal(scripts[1], setting)
    alone = sum(bool(t) for t in scripts[1].tokens) * setting.large.decode / 1000
    steps = sum(kind == "step" for kind in _starts(scripts[1]).values())
    shown = Table(
        "arm",
        "seconds",
        "rho",
        "requests / 100 steps",
        "discarded / step",
        "against the authors'",
        "against large alone",
        title=f"{name}: ideal {bound:.1f} s",
    )
    rows: dict[str, Any] = {}
    for arm in arms:
        # New servers for every arm: nobody finds another's text in a cache.
        with servers(setting, scripts) as (small, large):
            outcome = ARMS[arm](small, large, "chain 1", {"threshold": THRESHOLD})
        seconds, requests, text, discarded = outcome
        if not text.replace("</think>", "").startswith(scripts[1].text[:200]):
            raise RuntimeError(f"{arm} wrote another text: {text[:300]!r}")
        rows[arm] = {"seconds": seconds, "rho": seconds / bound, "requests": 100 * requests / steps}
        if discarded is not None:
            rows[arm]["discarded"] = discarded / steps
        first = rows[arms[0]]["seconds"]
        shown.add_row(
            arm,
            f"{seconds:.1f}",
            f"{seconds / bound:.3f}",
            f"{100 * requests / steps:.0f}",
            "" if discarded is None else f"{discarded / steps:.2f}",
            f"{first / seconds:.2f}x",
            f"{alone / seconds:.2f}x",
        )
    console.print(shown)
    return rows


if __name__ == "__main__":
    main()
