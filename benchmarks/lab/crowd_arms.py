"""The arms of :mod:`benchmarks.lab.crowd`, and the process that one of them is measured in."""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import psutil

from benchmarks.lab.run import TEMPLATE, THRESHOLD, _starts
from benchmarks.lab.script import OPENED, Script

__all__ = ["ARMS", "Work", "measure"]


@dataclass(frozen=True)
class Work:
    """What one process is to do; ``scripts``: the first is for warming up."""

    arm: str
    at_once: int
    small: str
    large: str
    strategy: str
    scripts: Sequence[Script]


@dataclass(frozen=True)
class Cell:
    """The figures of one arm at one number of concurrent conversations.

    Attributes:
        arm: Its name.
        at_once: How many conversations run at the same time.
        tokens: The tokens of all of them together.
        seconds: From the first question to the last answer.
        p50: Median seconds of a conversation.
        p95: 95th percentile of them.
        client_cpu: CPU seconds of the client.
        server_cpu: CPU seconds of the small and the large server.
        connections: Opened at the small and the large server, those of the warm-up left out.
        requests: Completions at the small and the large server.
        memory: Bytes by which the client's resident memory grew, at its highest.
    """

    arm: str
    at_once: int
    tokens: int
    seconds: float
    p50: float
    p95: float
    client_cpu: float
    server_cpu: tuple[float, float]
    connections: tuple[int, int]
    requests: tuple[int, int]
    memory: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds of the client for 1,000 tokens."""
        return 1000 * self.client_cpu / self.tokens


@dataclass(frozen=True)
class Reply:
    """One conversation: its seconds, and its text; where nobody routes, its number of tokens."""

    seconds: float
    text: str | int


Run = Callable[[Sequence[int]], list[Reply]]
"""From numbers of scripts to the replies, all at once."""


def measure(work: Work, pipe: Connection) -> None:
    """Warm up, say "ready", wait for "go", talk, and send the figures."""
    try:
        run = ARMS[work.arm](work)
        run([0])
        gc.collect()
        pipe.send("ready")
        pipe.recv()
        chains = range(1, work.at_once + 1)
        with _Peak() as peak:
            cpu, clock = time.process_time(), time.perf_counter()
            replies = run(chains)
            seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
        _check(work, replies)
        each = [one.seconds for one in replies]
        twentieths = statistics.quantiles(each, n=20, method="inclusive") if each[1:] else each
        pipe.send(
            {
                "tokens": sum(_count(work.scripts[chain]) for chain in chains),
                "seconds": seconds,
                "p50": statistics.median(each),
                "p95": twentieths[-1],
                "client_cpu": cpu,
                "memory": peak.growth,
            }
        )
    except BaseException as error:  # sent to the process that shows it
        pipe.send(f"{work.arm}, {work.at_once} at once: {type(error).__name__}: {error}")
        raise


def _check(work: Work, replies: Sequence[Reply]) -> None:
    """Check that every reply is what its script says."""
    for chain, one in enumerate(replies, 1):
        script = work.scripts[chain]
        # Steps hold neither the tag nor the blank line after it.
        steps = script.text.replace("</think>\n\n", "", 1)
        whole: str | int = _count(script) if isinstance(one.text, int) else steps
        if one.text != whole:
            raise RuntimeError(f"conversation {chain} came to {one.text!r} instead of {whole!r}")


class _Peak:
    """The growth of resident memory at its highest, looked at 20 times a second."""

    growth = 0

    def __enter__(self) -> _Peak:
        self._process = psutil.Process()
        self._base = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._note()

    def _note(self) -> None:
        self.growth = max(self.growth, self._process.memory_info().rss - self._base)


def _count(script: Script) -> int:
    return sum(bool(token) for token in script.tokens)


def _shares(script: Script) -> tuple[int, int]:
    """How many tokens the small and the large model write."""
    counts = {"small": 0, "large": 0}
    author, starts = "small", _starts(script)
    for place, (token, entropy) in enumerate(zip(script.tokens, script.entropies, strict=True)):
        if place in starts:
            hard = entropy > THRESHOLD or starts[place] == "answer"
            author = "large" if hard else "small"
        counts[author] += bool(token)
    return counts["small"], counts["large"]


def _question(chain: int) -> str:
    return f"chain {chain}"


# -- Routed ----------------------------------------------------------------------------------


def _settings(work: Work) -> dict[str, Any]:
    from glimp_integrations.backends import OpenAIBackend

    small, large = (
        OpenAIBackend(name, base_url=url, server="vllm", chat_template=TEMPLATE, device=url)
        for name, url in (("small", work.small), ("large", work.large))
    )
    return {
        "small": small,
        "large": large,
        "strategy": work.strategy,
        "threshold": THRESHOLD,
        "route": "always",
        "temperature": 0,
    }


def _of_record(record: dict[str, Any]) -> Reply:
    return Reply(record["seconds"], "".join(step["text"] for step in record["steps"]))


def _abatch(work: Work) -> Run:
    from langchain_glimp import ChatGlimpRouter

    model = ChatGlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        messages = asyncio.run(model.abatch([_question(chain) for chain in chains]))
        return [_of_record(message.response_metadata["glimprouter"]) for message in messages]

    return run


def _batch(work: Work) -> Run:
    from langchain_glimp import ChatGlimpRouter

    model = ChatGlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        # As many threads: LangChain's own number depends on the machine.
        width: Any = {"max_concurrency": len(chains)}
        messages = model.batch([_question(chain) for chain in chains], width)
        return [_of_record(message.response_metadata["glimprouter"]) for message in messages]

    return run


def _threads(work: Work) -> Run:
    from glimp_integrations import GlimpRouter

    router = GlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        with ThreadPoolExecutor(len(chains)) as pool:
            results = list(pool.map(router.run, map(_question, chains)))
        return [_of_record(result.trace.model_dump(mode="json")) for result in results]

    return run


# -- The servers' own ------------------------------------------------------------------------


class Stream(Protocol):
    """Streams so many tokens and counts what came."""

    async def __call__(self, url: str, body: dict[str, Any]) -> int: ...


def _own(work: Work, client: Callable[[], AbstractAsyncContextManager[Stream]]) -> Run:
    """Each conversation's tokens, the small model's first, by a client that only counts."""

    async def talk(stream: Stream, chain: int) -> Reply:
        started, seen = time.perf_counter(), 0
        prompt = f"<|im_start|>user\n{_question(chain)}<|im_end|>\n{OPENED}"
        small, large = _shares(work.scripts[chain])
        for name, url, count in (("small", work.small, small), ("large", work.large, large)):
            body = {"model": name, "prompt": prompt, "max_tokens": count, "temperature": 0}
            if name == "small":
                body["logprobs"] = 20  # as the routed small model is asked
            seen += await stream(url, body)
        return Reply(time.perf_counter() - started, seen)

    async def gather(chains: Sequence[int]) -> list[Reply]:
        async with client() as stream:
            return await asyncio.gather(*(talk(stream, chain) for chain in chains))

    return lambda chains: asyncio.run(gather(chains))


@asynccontextmanager
async def _by_aiohttp() -> AsyncIterator[Stream]:
    import aiohttp

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:

        async def stream(url: str, body: dict[str, Any]) -> int:
            seen = 0
            body = {**body, "stream": True}
            async with session.post(f"{url}/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    seen += line.startswith(b'data: {"choices": [{')
            return seen

        yield stream


@asynccontextmanager
async def _by_openai() -> AsyncIterator[Stream]:
    from openai import AsyncOpenAI

    clients: dict[str, AsyncOpenAI] = {}

    async def stream(url: str, body: dict[str, Any]) -> int:
        if url not in clients:
            clients[url] = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        seen = 0
        async for chunk in await clients[url].completions.create(**body, stream=True):
            seen += len(chunk.choices)
        return seen

    yield stream
    for client in clients.values():
        await client.close()


ARMS: dict[str, Callable[[Work], Run]] = {
    "abatch": _abatch,
    "batch": _batch,
    "threads": _threads,
    "aiohttp": lambda work: _own(work, _by_aiohttp),
    "openai": lambda work: _own(work, _by_openai),
}
