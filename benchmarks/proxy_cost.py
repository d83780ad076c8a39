"""What nginx costs in front of two ``glimp serve``, with the recipe of ``deploy/nginx``.

    python -m benchmarks.proxy_cost                          # some minutes; nginx and openssl
    python -m benchmarks.proxy_cost --rounds 2 --steps 3 --at-once 4 --json figures.json

The same scripted conversations on the laboratory's servers, by a bare aiohttp client: "direct",
half of them to each replica, and through nginx with TLS, in turns, one first and then the other.
Servers are "paced" or "instant" as in :mod:`benchmarks.serve_overhead`. Times are medians over the
rounds. CPU is that of nginx with its workers, over all rounds: it is counted in hundredths of a
second, so a few conversations show nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from rich.table import Table

from benchmarks.lab.crowd_arms import count, model_options, routing_options
from benchmarks.lab.nginx import Nginx, nginx
from benchmarks.lab.rounds import medians, options_of, show
from benchmarks.lab.run import servers
from benchmarks.lab.script import Script, made_up
from benchmarks.lab.serving import ServeProcess, bare_session
from benchmarks.serve_overhead import SETTINGS, by_serve

ARMS = ("direct", "nginx")
REPLICAS = 2  # as in the recipe


@dataclass(frozen=True)
class Turn:
    """Some conversations at once, by one arm.

    Attributes:
        first: Seconds to the first token; the median of the conversations.
        token: Seconds from the first token to the end, a token; likewise.
        cpu: CPU seconds of nginx, for all of them.
        tokens: How many they have together.
    """

    first: float
    token: float
    cpu: float
    tokens: int


@contextmanager
def replicas(small: str, large: str, at_once: int) -> Iterator[list[ServeProcess]]:
    """Two ``glimp serve`` over one pair."""
    with ExitStack() as running:
        yield [
            running.enter_context(
                closing(
                    ServeProcess(
                        model_options(small, large), routing_options("auto"), at_once=at_once
                    )
                )
            )
            for _ in range(REPLICAS)
        ]


async def turn(
    url_of: Callable[[int], str],
    session: aiohttp.ClientSession,
    scripts: list[Script],
    chains: range,
    proxy: Nginx,
) -> Turn:
    """All these conversations at once, checked.

    Raises:
        RuntimeError: One came to another text.
    """
    cpu = proxy.cpu()
    talks = await asyncio.gather(*(by_serve(session, url_of(chain), chain) for chain in chains))
    cpu = proxy.cpu() - cpu
    tokens = [count(scripts[chain]) for chain in chains]
    for chain, talk in zip(chains, talks, strict=True):
        reasoning, _, answer = scripts[chain].text.partition("</think>\n\n")
        if talk.text != reasoning + answer.lstrip():
            raise RuntimeError(f"conversation {chain} came to {talk.text!r}")
    return Turn(
        statistics.median(talk.first for talk in talks),
        statistics.median((t.end - t.first) / (n - 1) for t, n in zip(talks, tokens, strict=True)),
        cpu,
        sum(tokens),
    )


async def measure(
    setting: str, at_once: int, options: argparse.Namespace, advance: Callable[[], None]
) -> dict[str, Any]:
    """Both arms at one setting, in turns: a row of the table; ``cpu`` is for 1,000 tokens."""
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
        nginx(Path(folder), [urlsplit(one.url).port or 0 for one in served]) as proxy,
    ):
        urls = {
            "direct": lambda chain: served[chain % REPLICAS].url,
            "nginx": lambda chain: f"{proxy.root}/v1",
        }
        async with bare_session(proxy.certificate) as session:
            for url in (*(one.url for one in served), f"{proxy.root}/v1"):
                await by_serve(session, url, 0)
            begin = 1
            for number in range(options.rounds):
                for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                    chains = range(begin, begin + at_once)
                    begin += at_once
                    turns[arm].append(await turn(urls[arm], session, scripts, chains, proxy))
                advance()
    cpu, tokens = (sum(getattr(one, name) for one in turns["nginx"]) for name in ("cpu", "tokens"))
    return {
        "setting": setting,
        "at_once": at_once,
        "medians": medians(turns, "first", "token"),
        "cpu": 1000 * cpu / tokens,
        "turns": {arm: [asdict(one) for one in turns[arm]] for arm in ARMS},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The figures: direct, through nginx, and what is added."""
    shown = Table(
        *("servers", "at once", "first token, ms\ndirect, nginx, added"),
        *("a token, µs\ndirect, nginx, added", "CPU s of nginx / 1k tokens"),
        title="nginx in front of two glimp serve, medians",
    )
    for row in rows:
        direct, through = (row["medians"][arm] for arm in ARMS)
        cells = [
            ", ".join(
                f"{scale * value:.{digits}f}"
                for value in (direct[name], through[name], through[name] - direct[name])
            )
            for name, scale, digits in (("first", 1e3, 1), ("token", 1e6, 0))
        ]
        shown.add_row(row["setting"], str(row["at_once"]), *cells, f"{row['cpu']:.3f}")
    return shown


def main() -> None:
    parser = options_of(__doc__, SETTINGS, at_once=[1, 64])
    show(parser, measure, table, width=120)


if __name__ == "__main__":
    main()
