"""Several prompts at the same time, and streams that nobody closed before their loop ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from scripted_models import text_model
from scripts import ROUTED, Listening, tokens

from glimp_integrations import BackendError, io_loop
from glimp_integrations.backends.base import Report, Request
from langchain_glimp import GlimpRouterLLM

PROMPTS = list("abcdef")
METHODS = ["abatch", "agenerate", "batch", "generate"]


class Crowd(Listening):
    """Holds every request until ``together`` of them are there, and counts them."""

    def __init__(self, together: int, **options: Any) -> None:
        super().__init__(tokens("Fine.", ""), generation_prompt="<assistant>\n", **options)
        self.together = together
        self.now = self.most = 0
        self._enough: asyncio.Event | None = None

    async def generate(self, request: Request, report: Report) -> Any:
        self._enough = self._enough or asyncio.Event()
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.together:
            self._enough.set()
        try:
            await asyncio.wait_for(self._enough.wait(), 10)
            async for token in super().generate(request, report):
                yield token
        finally:
            self.now -= 1


def crowd(together: int) -> tuple[GlimpRouterLLM, Crowd]:
    backend = Crowd(together)
    return GlimpRouterLLM(small=backend, large=backend, threshold=-1, temperature=0), backend


async def replies(llm: Any, method: str, **kwargs: Any) -> list[str]:
    called = getattr(llm, method)(PROMPTS, **kwargs)
    result = await called if method.startswith("a") else called
    return result if isinstance(result, list) else [g[0].text for g in result.generations]


@pytest.mark.parametrize("method", METHODS)
async def test_prompts_are_answered_at_the_same_time(method: str) -> None:
    together = 6 if method.startswith("a") else 4  # a pool of threads has four at least
    llm, backend = crowd(together)
    assert await replies(llm, method) == ["Fine."] * 6
    assert backend.most >= together


@pytest.mark.parametrize("method", ["abatch", "batch"])
async def test_no_more_than_allowed_are_answered_at_the_same_time(method: str) -> None:
    llm, backend = crowd(2)
    assert await replies(llm, method, config={"max_concurrency": 2}) == ["Fine."] * 6
    assert backend.most == 2


class Fails(Listening):
    """Fails for one prompt."""

    async def generate(self, request: Request, report: Report) -> Any:
        if "<user>c\n" in request.prompt:
            raise BackendError("broken", model=self.name)
        async for token in super().generate(request, report):
            yield token


@pytest.mark.parametrize("method", ["abatch", "batch"])
async def test_one_that_fails_takes_no_other_along(method: str) -> None:
    backend = Fails(tokens("Fine.", ""), generation_prompt="<assistant>\n")
    llm = GlimpRouterLLM(small=backend, large=backend, **ROUTED)
    answers = await replies(llm, method, return_exceptions=True)
    assert [type(a) for a in answers] == [str, str, BackendError, str, str, str]
    with pytest.raises(BackendError, match="broken"):
        await replies(llm, method)


async def test_a_cancelled_caller_stops_all() -> None:
    backend = Crowd(99)
    llm = GlimpRouterLLM(small=backend, large=backend, threshold=-1, temperature=0)
    task = asyncio.ensure_future(llm.agenerate(PROMPTS))
    while backend.now < 6:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.now == 0


class Breaks(Crowd):
    """One of them fails once all are there; the others would go on for long."""

    async def generate(self, request: Request, report: Report) -> Any:
        async with aclosing(super().generate(request, report)) as written:
            async for token in written:
                if "<user>c\n" in request.prompt:
                    raise BackendError("broken", model=self.name)
                await asyncio.sleep(60)
                yield token


async def test_one_that_fails_in_a_call_of_all_stops_the_others() -> None:
    backend = Breaks(6)
    llm = GlimpRouterLLM(small=backend, large=backend, threshold=-1, temperature=0)
    with pytest.raises(BackendError, match="broken"):
        await llm.agenerate(PROMPTS)
    assert backend.now == 0


def test_usage_and_order_are_those_of_all_prompts() -> None:
    llm = text_model("Fine.")
    result = llm.generate(PROMPTS)
    one = llm.generate(["a"]).llm_output["token_usage"]["total_tokens"]
    assert result.llm_output["token_usage"]["total_tokens"] == 6 * one
    assert llm.generate([]).generations == []


STREAMS = [
    "llm.astream('hi')",
    "llm.router.astream('hi')",
    "llm.astream_events('hi', version='v2')",
    "(llm | (lambda x: x)).astream('hi')",
]
TAIL = """
    import asyncio, sys
    sys.path[:0] = {paths!r}
    from scripted_models import chat, text_model

    kept = []

    async def main(llm, expression):
        kept.append(eval(expression))
        async for _ in kept[-1]:
            break

    for make in (chat, text_model):
        for expression in {streams!r}:
            asyncio.run(main(make("Fine.", of={{"delay": 0.02}}), expression))
            print("ended", make.__name__, expression, flush=True)
"""


def test_a_loop_that_ends_with_an_open_stream_is_silent() -> None:
    """One process for all of them: starting it takes longer than what it does.

    A warning of one stream stands before the line that says its loop ended, or, where the end of
    the process drops the stream, behind the last line.
    """
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    script = textwrap.dedent(TAIL).format(paths=paths, streams=STREAMS)
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    lines = [f"ended {make} {stream}" for make in ("chat", "text_model") for stream in STREAMS]
    assert (done.returncode, done.stdout.splitlines()) == (0, lines)


async def test_models_stop_when_their_readers_loop_has_ended() -> None:
    llm = text_model(*["x"] * 2000, of={"delay": 0.005})
    kept: list[Any] = []

    async def read_one() -> None:
        kept.append(llm.router.astream("hi"))
        await anext(kept[0])

    thread = threading.Thread(target=lambda: asyncio.run(read_one()))
    thread.start()
    await asyncio.to_thread(thread.join)
    async with asyncio.timeout(5):
        while io_loop._tasks:
            await asyncio.sleep(0.01)
    assert kept
