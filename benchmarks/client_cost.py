"""What a streamed token costs the client: its own seconds of CPU, not the waiting.

    python -m benchmarks.client_cost                         # 1,000 to 32,000 tokens, all arms
    python -m benchmarks.client_cost --lengths 1000 4000 --profile core

The laboratory's server (vLLM's wire shape, 20 log-probabilities a token) runs in a process of its
own and writes a chain that the small model may write alone, so every token comes with its
log-probabilities. Counted is the processor time of this process. Two clients that do nothing with
the same response stand beside it: "aiohttp" is the HTTP library of the core, and only counts lines;
"openai" is ``openai.AsyncOpenAI``, another client, which makes objects of them.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import platform
import pstats
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.lab.run import TEMPLATE, Setting, servers
from benchmarks.lab.script import OPENED, made_up
from benchmarks.lab.server import Costs
from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends import OpenAIBackend

Arm = Callable[[str, str, str, dict[str, Any]], int]
"""Asks small and large (URLs) a question; returns how many pieces came."""


def backends(small: str, large: str) -> dict[str, OpenAIBackend]:
    return {
        role: OpenAIBackend(role, base_url=url, server="vllm", chat_template=TEMPLATE)
        for role, url in (("small", small), ("large", large))
    }


def _body(question: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "small",
        "prompt": f"<|im_start|>user\n{question}<|im_end|>\n{OPENED}",
        "max_tokens": options["max_thinking_tokens"],
        "temperature": 0,
        "logprobs": 20,
        "stream": True,
    }


def by_aiohttp(small: str, _: str, question: str, options: dict[str, Any]) -> int:
    async def stream() -> int:
        pieces, limit = 0, aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(f"{small}/completions", json=_body(question, options)) as response,
        ):
            response.raise_for_status()
            async for line in response.content:
                pieces += line.startswith(b"data: {")
        return pieces

    return asyncio.run(stream())


def by_openai(small: str, _: str, question: str, options: dict[str, Any]) -> int:
    async def stream() -> int:
        pieces = 0
        async with AsyncOpenAI(base_url=small, api_key="none") as client:
            async for _ in await client.completions.create(**_body(question, options)):
                pieces += 1
        return pieces

    return asyncio.run(stream())


def core(small: str, large: str, question: str, options: dict[str, Any]) -> int:
    with GlimpRouter(**backends(small, large), route="always", **options) as router:
        return sum(1 for _ in router.stream(question))


def langchain(small: str, large: str, question: str, options: dict[str, Any]) -> int:
    from langchain_glimp import ChatGlimpRouter

    llm = ChatGlimpRouter(**backends(small, large), route="always", **options)
    return sum(1 for _ in llm.stream(question))


def llamaindex(small: str, large: str, question: str, options: dict[str, Any]) -> int:
    from llama_index.core.llms import ChatMessage

    from llamaindex_glimp import GlimpRouterLLM

    llm = GlimpRouterLLM(**backends(small, large), route="always", **options)
    return sum(1 for _ in llm.stream_chat([ChatMessage(question)]))


ARMS: dict[str, Arm] = {
    "aiohttp": by_aiohttp,
    "openai": by_openai,
    "core": core,
    "LangChain": langchain,
    "LlamaIndex": llamaindex,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", nargs="*", type=int, default=[1000, 4000, 16_000, 32_000])
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--profile", choices=list(ARMS), help="show where one arm's time goes")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--png", type=Path, help="draw them")
    options = parser.parse_args()
    console = Console(width=110)
    chains = [
        made_up(number, steps=max(1, length // 40), step_tokens=40, large_share=0, answer_tokens=1)
        for number, length in enumerate([400, *options.lengths])
    ]
    # The answer is by the small model too: it is the last token of one stream.
    settings = {
        "temperature": 0,
        "answer_by": "small",
        "max_thinking_tokens": 40_000,
        "strategy": "fused",
    }
    quick = Costs(decode=0.4)
    figures: dict[str, dict[int, float]] = {}
    with servers(Setting(quick, quick), chains) as (small, large):
        if options.profile:
            return profile(ARMS[options.profile], small, large, settings)
        with Progress(console=console) as progress:
            task = progress.add_task("", total=len(options.arms) * len(options.lengths))
            for name in options.arms:
                ARMS[name](small, large, "chain 0", settings)  # imports, first connections
                for number, length in enumerate(options.lengths, start=1):
                    progress.update(task, description=f"{name}, {length:,} tokens")
                    started = time.process_time()
                    pieces = ARMS[name](small, large, f"chain {number}", settings)
                    spent = time.process_time() - started
                    if pieces < 0.9 * length:
                        raise RuntimeError(f"{name}: {pieces} pieces of {length} tokens came")
                    figures.setdefault(name, {})[length] = 1000 * spent / length
                    progress.advance(task)
    console.print(table(figures, options.lengths))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if options.png:
        draw(figures, options.png)
    return None


def table(figures: dict[str, dict[int, float]], lengths: list[int]) -> Table:
    shown = Table(
        title="CPU milliseconds of the client per streamed token",
        caption=f"20 log-probabilities a token; {platform.machine()}",
    )
    shown.add_column("")
    for length in lengths:
        shown.add_column(f"{length:,} tokens", justify="right")
    for name, row in figures.items():
        shown.add_row(name, *(f"{row[length]:.3f}" for length in lengths))
    return shown


def draw(figures: dict[str, dict[int, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    colours = {
        "aiohttp": "#BBBBBB",
        "openai": "#777777",
        "core": "#0072B2",
        "LangChain": "#D55E00",
        "LlamaIndex": "#009E73",
    }
    for (name, row), marker in zip(figures.items(), "vosD^", strict=False):
        axes.plot(list(row), list(row.values()), marker=marker, color=colours[name], label=name)
    axes.set_xscale("log")
    axes.set_xticks([int(x) for x in next(iter(figures.values()))])
    axes.get_xaxis().set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in the chain of thought")
    axes.set_ylabel("client CPU per token (ms)")
    axes.set_title("A long chain costs per token what a short one does")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def profile(arm: Arm, small: str, large: str, settings: dict[str, Any]) -> None:
    """Both threads' functions: the caller's and the I/O loop's."""
    arm(small, large, "chain 0", settings)
    loop_profile = cProfile.Profile()

    async def switch(on: bool) -> None:
        assert threading.current_thread() is not threading.main_thread()
        (loop_profile.enable if on else loop_profile.disable)()

    io_loop.call(lambda: switch(True))
    arm(small, large, "chain 1", settings)
    io_loop.call(lambda: switch(False))
    pstats.Stats(loop_profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
