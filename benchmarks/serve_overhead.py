"""What ``glimp serve`` adds to the core in-process: to the first token, to every token, and in CPU.

    python -m benchmarks.serve_overhead                      # some minutes
    python -m benchmarks.serve_overhead --rounds 2 --steps 3 --at-once 1 --json figures.json

Both answer the same scripted conversations on the laboratory's servers, in turns, one after the
other and then the other way round: the router's own async stream, and a bare aiohttp client in
front of a ``glimp serve`` in a process of its own. "paced" servers write a token every few
milliseconds, so that the first token shows what is added to waiting; from "instant" ones tokens
come as fast as they are read, so that a token's time is work alone. All figures are medians over
the rounds. CPU is that of the process which talks to the models: the benchmark's own with the core,
the server's with serve.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import psutil
from rich.table import Table

from benchmarks.lab.crowd_arms import count, model_options, routing_options
from benchmarks.lab.crowd_cells import question
from benchmarks.lab.crowd_measure import Peak, cpu_of
from benchmarks.lab.loops import LOOPS
from benchmarks.lab.rounds import medians, options_of, show
from benchmarks.lab.run import Setting, servers
from benchmarks.lab.script import Script, made_up
from benchmarks.lab.server import Costs
from benchmarks.lab.serving import ServeProcess, bare_session, text_of

SETTINGS = {
    "paced": Setting(Costs(decode=5, request=4), Costs(decode=10, request=4)),
    "instant": Setting(Costs(decode=0), Costs(decode=0)),
}
ARMS = ("core", "serve")


@dataclass(frozen=True)
class Turn:
    """Some conversations at once, by one arm.

    Attributes:
        first: Seconds to the first token; the median of the conversations.
        token: Seconds from the first token to the end, a token; likewise.
        cpu: CPU seconds for 1,000 tokens.
    """

    first: float
    token: float
    cpu: float


@dataclass(frozen=True)
class Talk:
    """A conversation: when its first token and its end came (seconds), and its text."""

    first: float
    end: float
    text: str


Ask = Callable[[int], Any]


async def by_core(router: Any, chain: int) -> Talk:
    """The router's own stream."""
    from glimp_integrations import Finished, TextDelta

    began, first, text = time.perf_counter(), 0.0, ""
    async for event in router.astream(question(chain)):
        if isinstance(event, TextDelta):
            first = first or time.perf_counter() - began
        elif isinstance(event, Finished):
            text = event.result.reasoning + event.result.answer
    return Talk(first, time.perf_counter() - began, text)


async def by_serve(session: Any, url: str, chain: int) -> Talk:
    """A client that keeps what comes."""
    messages = [{"role": "user", "content": question(chain)}]
    body = {"model": "glimp", "messages": messages, "stream": True}
    began, first, parts = time.perf_counter(), 0.0, []
    async with session.post(f"{url}/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for part in answer.content.iter_any():
            if not first and b'"reasoning_content":' in part:
                first = time.perf_counter() - began
            parts.append(part)
    end = time.perf_counter() - began
    return Talk(first, end, text_of(b"".join(parts)))


async def turn(
    ask: Ask, scripts: list[Script], chains: range, process: psutil.Process
) -> tuple[Turn, int]:
    """All these conversations at once, checked; and the growth of the process' memory in bytes.

    Raises:
        RuntimeError: One came to another text.
    """
    with Peak(process) as peak:
        cpu = cpu_of(process)
        talks = await asyncio.gather(*map(ask, chains))
        cpu = cpu_of(process) - cpu
    tokens = []
    for chain, talk in zip(chains, talks, strict=True):
        reasoning, _, answer = scripts[chain].text.partition("</think>\n\n")
        if talk.text != reasoning + answer.lstrip():
            raise RuntimeError(f"conversation {chain} came to {talk.text!r}")
        tokens.append(count(scripts[chain]))
    return Turn(
        statistics.median(talk.first for talk in talks),
        statistics.median((t.end - t.first) / (n - 1) for t, n in zip(talks, tokens, strict=True)),
        1000 * cpu / sum(tokens),
    ), peak.base + peak.growth


async def measure(
    setting: str, at_once: int, options: argparse.Namespace, advance: Callable[[], None]
) -> dict[str, Any]:
    """Both arms at one setting, in turns: a row of the table."""
    from glimp_integrations import GlimpRouter
    from glimp_integrations.backends import OpenAIBackend

    make = partial(made_up, step_tokens=24, large_share=0.25)
    shape = {"steps": options.steps, "answer_tokens": options.answer_tokens}
    scripts = [
        made_up(0, steps=1, step_tokens=4, large_share=0, answer_tokens=1),
        # Another text in every round: nothing is in a cache.
        *(make(seed, **shape) for seed in range(1, options.rounds * at_once + 1)),
    ]
    turns: dict[str, list[Turn]] = defaultdict(list)
    with servers(SETTINGS[setting], scripts) as (small, large):
        models, routing = model_options(small, large), routing_options(options.strategy)
        served = ServeProcess(models, routing, at_once=at_once, loops=options.loops)
        with closing(served):
            idle = loaded = served.process.memory_info().rss
            backends = {role: OpenAIBackend(**given) for role, given in models.items()}
            async with GlimpRouter(**backends, **routing) as router, bare_session() as session:
                asks = {
                    "core": partial(by_core, router),
                    "serve": partial(by_serve, session, served.url),
                }
                processes = {"core": psutil.Process(), "serve": served.process}
                for ask in asks.values():
                    await ask(0)
                for number in range(options.rounds):
                    chains = range(1 + number * at_once, 1 + (number + 1) * at_once)
                    for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                        one, most = await turn(asks[arm], scripts, chains, processes[arm])
                        turns[arm].append(one)
                        loaded = max(loaded, most) if arm == "serve" else loaded
                    advance()
    return {
        "setting": setting,
        "at_once": at_once,
        "idle_rss": idle,
        "loaded_rss": loaded,
        "medians": medians(turns, "first", "token", "cpu"),
        "turns": {arm: [asdict(one) for one in turns[arm]] for arm in ARMS},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The figures, core and serve and what is added."""
    shown = Table(
        *("servers", "at once", "first token, ms\ncore, serve, added"),
        *("a token, µs\ncore, serve, added", "CPU s / 1k tokens\ncore, serve, ratio"),
        *("memory of serve, MB\nidle, loaded",),
        title="glimp serve against the core in-process, medians",
    )
    for row in rows:
        core, serve = (row["medians"][arm] for arm in ARMS)

        def three(
            name: str, scale: float, digits: int, core: Any = core, serve: Any = serve
        ) -> str:
            values = (core[name], serve[name], serve[name] - core[name])
            return ", ".join(f"{scale * value:.{digits}f}" for value in values)

        ratio = f"{serve['cpu'] / core['cpu']:.2f}x" if core["cpu"] else ""
        shown.add_row(
            row["setting"],
            str(row["at_once"]),
            three("first", 1e3, 1),
            three("token", 1e6, 0),
            f"{core['cpu']:.2f}, {serve['cpu']:.2f}, {ratio}",
            f"{row['idle_rss'] / 1e6:.0f}, {row['loaded_rss'] / 1e6:.0f}",
        )
    return shown


def main() -> None:
    parser = options_of(__doc__, SETTINGS, at_once=[1, 16])
    parser.add_argument("--strategy", default="auto", help="of both arms (default: auto)")
    parser.add_argument(
        "--loops", choices=LOOPS, default="plain", help="of the server; see benchmarks.lab.loops"
    )
    show(parser, measure, table, width=150)


if __name__ == "__main__":
    main()
