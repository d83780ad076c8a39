"""The arms of :mod:`benchmarks.lab.crowd`: who talks to the models.

Routed: LangChain's ``abatch`` and ``batch``, the router in threads, its own async replies
(``arun``) and stream (``core``), and a bare client in front of ``glimp serve``. Not routed,
streaming the same tokens: a bare aiohttp client and OpenAI's. ``requests`` and ``own-requests``
stream by the requests of routed conversations, the second by the package's own HTTP client;
``forward`` is a server that does nothing but hand on what such a client gets, in the place of
``glimp serve``. See :mod:`benchmarks.lab.crowd_floor`. What uvloop changes is in the arms named
after it; see :mod:`benchmarks.lab.loops`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Any, Protocol

from benchmarks.lab.crowd_cells import Arm, Reply, Run, Started, Work, question
from benchmarks.lab.crowd_floor import (
    Open,
    by_aiohttp,
    by_own_client,
    prompt_of,
    steps_of,
    tokens_of,
)
from benchmarks.lab.loops import Loops, choose
from benchmarks.lab.loops import run as run_on
from benchmarks.lab.run import TEMPLATE, THRESHOLD
from benchmarks.lab.script import Script
from benchmarks.lab.serving import ServeProcess, ServerProcess, bare_session

__all__ = ["ARMS", "BY_DEFAULT", "count", "model_options", "routing_options"]


def count(script: Script) -> int:
    """How many tokens a conversation has."""
    return sum(bool(token) for token in script.tokens)


def _shares(script: Script) -> tuple[int, int]:
    """How many tokens the small and the large model write."""
    counts = {"small": 0, "large": 0}
    for author, tokens in steps_of(script):
        counts[author] += tokens
    return counts["small"], counts["large"]


# -- Routed ----------------------------------------------------------------------------------


def model_options(small: str, large: str) -> dict[str, dict[str, Any]]:
    """Arguments of ``OpenAIBackend`` for the servers at these addresses."""
    return {
        name: {
            "model": name,
            "base_url": url,
            "server": "vllm",
            "chat_template": TEMPLATE,
            "device": url,
        }
        for name, url in (("small", small), ("large", large))
    }


def routing_options(strategy: str) -> dict[str, Any]:
    """Routing settings besides the models."""
    return {"strategy": strategy, "threshold": THRESHOLD, "route": "always", "temperature": 0}


def _settings(work: Work) -> dict[str, Any]:
    from glimp_integrations.backends import OpenAIBackend

    models = model_options(work.small, work.large)
    return {
        **{role: OpenAIBackend(**given) for role, given in models.items()},
        **routing_options(work.strategy),
    }


def _of_record(record: dict[str, Any]) -> Reply:
    return Reply(record["seconds"], "".join(step["text"] for step in record["steps"]))


def _abatch(work: Work) -> Run:
    from langchain_glimp import ChatGlimpRouter

    model = ChatGlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        messages: list[Any] = []

        async def gather() -> None:  # asyncio.run describes what it returns, in full
            messages.extend(await model.abatch([question(chain) for chain in chains]))

        asyncio.run(gather())
        return [_of_record(message.response_metadata["glimprouter"]) for message in messages]

    return run


def _batch(work: Work) -> Run:
    from langchain_glimp import ChatGlimpRouter

    model = ChatGlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        # As many threads: LangChain's own number depends on the machine.
        width: Any = {"max_concurrency": len(chains)}
        messages = model.batch([question(chain) for chain in chains], width)
        return [_of_record(message.response_metadata["glimprouter"]) for message in messages]

    return run


def _threads(work: Work) -> Run:
    from glimp_integrations import GlimpRouter

    router = GlimpRouter(**_settings(work))

    def run(chains: Sequence[int]) -> list[Reply]:
        with ThreadPoolExecutor(len(chains)) as pool:
            results = list(pool.map(router.run, map(question, chains)))
        return [_of_record(result.trace.model_dump(mode="json")) for result in results]

    return run


def _arun(work: Work) -> Run:
    """The router's own replies in one piece, and nothing around it."""
    from glimp_integrations import GlimpRouter

    router = GlimpRouter(**_settings(work))

    async def talk(chain: int) -> Reply:
        trace = (await router.arun(question(chain))).trace
        return Reply(trace.seconds, "".join(step.text for step in trace.steps))

    async def gather(chains: Sequence[int]) -> list[Reply]:
        return await asyncio.gather(*map(talk, chains))

    return lambda chains: asyncio.run(gather(chains))


def _core(work: Work, loops: Loops = "plain") -> Run:
    """The router's own stream, and nothing around it."""
    from glimp_integrations import Finished, GlimpRouter

    if loops != "plain":
        choose(loops)
    router = GlimpRouter(**_settings(work))

    async def talk(chain: int) -> Reply:
        started, steps = time.perf_counter(), ""
        async for event in router.astream(question(chain)):
            if isinstance(event, Finished):
                steps = "".join(step.text for step in event.result.trace.steps)
        return Reply(time.perf_counter() - started, steps)

    async def gather(chains: Sequence[int]) -> list[Reply]:
        return await asyncio.gather(*map(talk, chains))

    return lambda chains: run_on(loops, gather(chains))


# -- Behind glimp serve ----------------------------------------------------------------------


def _serve(work: Work, loops: Loops = "plain") -> Started:
    """A bare client that keeps what comes from ``glimp serve``, which is what is measured."""
    models, routing = model_options(work.small, work.large), routing_options(work.strategy)
    return _behind(ServeProcess(models, routing, at_once=work.at_once, loops=loops))


def _forward(work: Work) -> Started:
    """The same in front of a server that only hands on what a client gets."""
    turns = [list(steps_of(script)) for script in work.scripts]
    told = {"small": work.small, "large": work.large, "turns": turns}
    return _behind(ServerProcess("benchmarks.lab.forward_process", told))


def _behind(served: ServerProcess) -> Started:
    async def gather(chains: Sequence[int]) -> list[Reply]:
        async with bare_session() as session:

            async def talk(chain: int) -> Reply:
                started = time.perf_counter()
                messages = [{"role": "user", "content": question(chain)}]
                body = {"model": "glimp", "messages": messages, "stream": True}
                async with session.post(f"{served.url}/chat/completions", json=body) as answer:
                    answer.raise_for_status()
                    parts = [part async for part in answer.content.iter_any()]
                return Reply(time.perf_counter() - started, b"".join(parts))

            return await asyncio.gather(*map(talk, chains))

    return Started(lambda chains: asyncio.run(gather(chains)), served.process, closing(served))


# -- The servers' own ------------------------------------------------------------------------


class Stream(Protocol):
    """Streams so many tokens and counts what came."""

    async def __call__(self, url: str, body: dict[str, Any]) -> int: ...


def _own(
    work: Work,
    client: Callable[[], AbstractAsyncContextManager[Stream]],
    loops: Loops = "plain",
) -> Run:
    """Each conversation's tokens, the small model's first, by a client that only counts."""

    async def talk(stream: Stream, chain: int) -> Reply:
        started, seen = time.perf_counter(), 0
        prompt = prompt_of(chain)
        small, large = _shares(work.scripts[chain])
        for name, url, most in (("small", work.small, small), ("large", work.large, large)):
            body = {"model": name, "prompt": prompt, "max_tokens": most, "temperature": 0}
            if name == "small":
                body["logprobs"] = 20  # as the routed small model is asked
            seen += await stream(url, body)
        return Reply(time.perf_counter() - started, seen)

    async def gather(chains: Sequence[int]) -> list[Reply]:
        async with client() as stream:
            return await asyncio.gather(*(talk(stream, chain) for chain in chains))

    return lambda chains: run_on(loops, gather(chains))


@asynccontextmanager
async def _by_aiohttp() -> AsyncIterator[Stream]:
    async with bare_session() as session:

        async def stream(url: str, body: dict[str, Any]) -> int:
            seen = 0
            body = {**body, "stream": True}
            async with session.post(f"{url}/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    seen += line.startswith(b'data: {"choices": [{')
            return seen

        yield stream


def _requests(work: Work, client: Callable[[], AbstractAsyncContextManager[Open]]) -> Run:
    """The requests of routed conversations, by a client that routes nothing."""

    async def gather(chains: Sequence[int]) -> list[Reply]:
        async with client() as opener:

            async def talk(chain: int) -> Reply:
                started, turns = time.perf_counter(), list(steps_of(work.scripts[chain]))
                tokens = tokens_of(opener, work.small, work.large, chain, turns)
                text = "".join([token async for token in tokens])
                return Reply(time.perf_counter() - started, text.replace("</think>\n\n", ""))

            return await asyncio.gather(*map(talk, chains))

    return lambda chains: asyncio.run(gather(chains))


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


def _here(make: Callable[[Work], Run]) -> Arm:
    """An arm in the measured process itself."""
    return lambda work: Started(make(work))


ARMS: dict[str, Arm] = {
    "abatch": _here(_abatch),
    "batch": _here(_batch),
    "threads": _here(_threads),
    "arun": _here(_arun),
    "core": _here(_core),
    "core-uvloop": _here(partial(_core, loops="uvloop")),
    "serve": _serve,
    "serve-standard": partial(_serve, loops="standard"),
    "serve-uvloop": partial(_serve, loops="uvloop"),
    "aiohttp": _here(partial(_own, client=_by_aiohttp)),
    "aiohttp-uvloop": _here(partial(_own, client=_by_aiohttp, loops="uvloop")),
    "requests": _here(partial(_requests, client=by_aiohttp)),
    "own-requests": _here(partial(_requests, client=by_own_client)),
    "forward": _forward,
    "openai": _here(partial(_own, client=_by_openai)),
}
BY_DEFAULT = ("abatch", "batch", "threads", "core", "serve", "aiohttp", "openai")
