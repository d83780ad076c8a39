"""What a proxy costs in front of two ``glimp serve``, with the recipes of ``deploy``.

    python -m benchmarks.proxy_cost                          # some minutes; nginx and openssl
    python -m benchmarks.proxy_cost --proxy litellm          # after `make litellm`
    python -m benchmarks.proxy_cost --proxy ray              # with the extra ray
    python -m benchmarks.proxy_cost --rounds 2 --steps 3 --at-once 4 --json figures.json

The same scripted conversations on the laboratory's servers, by a bare aiohttp client: "direct",
half of them to each replica, and through the proxy, in turns, one first and then the other: nginx
with TLS, or LiteLLM's proxy, which spreads them over both. Ray has two replicas of its own behind
its HTTP proxy, so there "direct" are others than those behind the proxy.

Servers are "paced" or "instant" as in :mod:`benchmarks.serve_overhead`. Times are medians over the
rounds. CPU is that of all processes of the proxy (of Ray: its HTTP proxy alone), and that of the
replicas of either arm, over all rounds: it is counted in hundredths of a second, so a few
conversations show nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from rich.table import Table

from benchmarks.lab.crowd_arms import count, routing_options
from benchmarks.lab.litellm import litellm, over_replicas
from benchmarks.lab.nginx import nginx
from benchmarks.lab.proxies import Proxy, cpu_of_all
from benchmarks.lab.ray_serve import RayServe, ray_serve
from benchmarks.lab.rounds import medians, options_of, show
from benchmarks.lab.run import servers
from benchmarks.lab.script import Script, made_up
from benchmarks.lab.serving import ServeProcess, bare_session
from benchmarks.serve_overhead import SETTINGS, by_serve

ARMS = ("direct", "proxy")
PROXIES = ("nginx", "litellm", "ray")
REPLICAS = 2  # as in the recipes
ROUTING = routing_options("auto")


@dataclass(frozen=True)
class Turn:
    """Some conversations at once, by one arm.

    Attributes:
        first: Seconds to the first token; the median of the conversations.
        token: Seconds from the first token to the end, a token; likewise.
        whole: Seconds to the end; likewise. A proxy that cannot keep pace holds the first tokens
            back, and the others come at once after it: only this figure shows that.
        proxy: CPU seconds of the proxy, for all of them.
        replicas: CPU seconds of the replicas that answered, likewise.
        tokens: How many they have together.
    """

    first: float
    token: float
    whole: float
    proxy: float
    replicas: float
    tokens: int


@dataclass(frozen=True)
class Arm:
    """Who is asked.

    Attributes:
        url: From a conversation's number to the address of its API.
        replicas: The processes that answer.
    """

    url: Callable[[int], str]
    replicas: list[psutil.Process]


@contextmanager
def replicas(small: str, large: str, at_once: int) -> Iterator[list[ServeProcess]]:
    """Two ``glimp serve`` over one pair, told as much about it as Ray's replicas are."""
    models = {"small": {"model": "small", "base_url": small}}
    models["large"] = {"model": "large", "base_url": large}
    with ExitStack() as running:
        yield [
            running.enter_context(closing(ServeProcess(models, ROUTING, at_once=at_once)))
            for _ in range(REPLICAS)
        ]


def started(
    name: str, folder: Path, models: tuple[str, str], urls: Sequence[str], at_once: int
) -> AbstractContextManager[Proxy]:
    """A proxy.

    Args:
        name: One of ``PROXIES``.
        folder: For its files.
        models: The addresses of the small and the large model, for replicas of its own.
        urls: The APIs of the replicas that it is in front of, unless it has its own.
        at_once: Conversations that run at a time in a replica of its own.
    """
    if name == "nginx":
        return nginx(folder, [urlsplit(url).port or 0 for url in urls])
    if name == "litellm":
        return litellm(folder, over_replicas(folder, urls), glimp=urls[0], large=models[1])
    routing = ROUTING | {
        role: f"openai:{role}@{url}" for role, url in zip(("small", "large"), models, strict=True)
    }
    lines = [f"{setting} = {json.dumps(value)}" for setting, value in routing.items()]
    config = folder / "serve.toml"
    head = f"no_keys = true\nmax_running = {at_once}\n\n[routing]\n"
    config.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return ray_serve(folder, config)


async def turn(
    arm: Arm, session: aiohttp.ClientSession, scripts: list[Script], chains: range, proxy: Proxy
) -> Turn:
    """All these conversations at once, checked.

    Raises:
        RuntimeError: One came to another text.
    """
    before = proxy.cpu(), cpu_of_all(arm.replicas)
    talks = await asyncio.gather(*(by_serve(session, arm.url(chain), chain) for chain in chains))
    after = proxy.cpu(), cpu_of_all(arm.replicas)
    tokens = [count(scripts[chain]) for chain in chains]
    for chain, talk in zip(chains, talks, strict=True):
        reasoning, _, answer = scripts[chain].text.partition("</think>\n\n")
        if talk.text != reasoning + answer.lstrip():
            raise RuntimeError(f"conversation {chain} came to {talk.text!r}")
    return Turn(
        statistics.median(talk.first for talk in talks),
        statistics.median((t.end - t.first) / (n - 1) for t, n in zip(talks, tokens, strict=True)),
        statistics.median(talk.end for talk in talks),
        after[0] - before[0],
        after[1] - before[1],
        sum(tokens),
    )


def _per_thousand(turns: Sequence[Turn], name: str) -> float:
    """CPU seconds for 1,000 tokens, over all turns."""
    return 1000 * sum(getattr(one, name) for one in turns) / sum(one.tokens for one in turns)


async def measure(
    setting: str, at_once: int, options: argparse.Namespace, advance: Callable[[], None]
) -> dict[str, Any]:
    """Both arms at one setting, in turns: a row of the table; CPU is for 1,000 tokens."""
    shape = {"steps": options.steps, "answer_tokens": options.answer_tokens}
    scripts = [
        made_up(0, steps=1, step_tokens=4, large_share=0, answer_tokens=1),
        # Another text in every turn: nothing is in a cache.
        *(
            made_up(seed, step_tokens=24, large_share=0.25, **shape)
            for seed in range(1, options.rounds * len(ARMS) * at_once + 1)
        ),
    ]
    turns: dict[str, list[Turn]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        servers(SETTINGS[setting], scripts) as models,
        replicas(*models, at_once) as served,
        started(options.proxy, Path(folder), models, [one.url for one in served], at_once) as proxy,
    ):
        own = [one.process for one in served]
        behind = proxy.replicas() if isinstance(proxy, RayServe) else own
        arms = {
            "direct": Arm(lambda chain: served[chain % REPLICAS].url, own),
            "proxy": Arm(lambda chain: f"{proxy.root}/v1", behind),
        }
        async with bare_session(proxy.certificate, proxy.key) as session:
            for arm in arms.values():
                # So many that every replica gets some.
                await asyncio.gather(*(by_serve(session, arm.url(n), 0) for n in range(16)))
            begin = 1
            for number in range(options.rounds):
                for name in ARMS if number % 2 == 0 else reversed(ARMS):
                    chains = range(begin, begin + at_once)
                    begin += at_once
                    turns[name].append(await turn(arms[name], session, scripts, chains, proxy))
                advance()
    return {
        "proxy": options.proxy,
        "setting": setting,
        "at_once": at_once,
        "medians": medians(turns, "first", "token", "whole"),
        "cpu": _per_thousand(turns["proxy"], "proxy"),
        "replicas_cpu": {arm: _per_thousand(turns[arm], "replicas") for arm in ARMS},
        "turns": {arm: [asdict(one) for one in turns[arm]] for arm in ARMS},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The figures: direct, through the proxy, and what is added."""
    name = rows[0]["proxy"]
    shown = Table(
        *("servers", "at once", f"first token, ms\ndirect, {name}, added"),
        *(f"a token, µs\ndirect, {name}, added", f"whole, s\ndirect, {name}, added"),
        *(f"CPU s of {name}\n/ 1k tokens", f"CPU s of replicas\n/ 1k tokens\ndirect, {name}"),
        title=f"{name} in front of two glimp serve, medians",
    )
    for row in rows:
        direct, through = (row["medians"][arm] for arm in ARMS)
        cells = [
            ", ".join(
                f"{scale * value:.{digits}f}"
                for value in (direct[one], through[one], through[one] - direct[one])
            )
            for one, scale, digits in (("first", 1e3, 1), ("token", 1e6, 0), ("whole", 1, 1))
        ]
        own = ", ".join(f"{row['replicas_cpu'][arm]:.2f}" for arm in ARMS)
        shown.add_row(row["setting"], str(row["at_once"]), *cells, f"{row['cpu']:.3f}", own)
    return shown


def main() -> None:
    parser = options_of(__doc__, SETTINGS, at_once=[1, 64])
    parser.add_argument("--proxy", choices=PROXIES, default="nginx", help="(default: nginx)")
    show(parser, measure, table, width=150)


if __name__ == "__main__":
    main()
