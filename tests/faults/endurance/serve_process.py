"""``glimp serve`` in a process of its own, over the endurance run's servers.

What it holds is told through pipes, so nothing is added to what is served. A line on its standard
input asks: ``sample`` for what it holds, ``rest`` for that once the models' connections are closed.
The input's end is its own, as SIGTERM would be.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import time
import warnings
from dataclasses import asdict
from typing import Any

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.serve import ServeConfig
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.server import Server

from ..replies import TEMPLATE
from .measures import Sample, sample
from .pipes import tell

_REST_SECONDS = 5.0


class _Warnings(logging.Handler):
    """Tells what asyncio and the server's own parts warn of."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(what="warning", text=f"{record.name}: {record.getMessage()}"[:1000])


def main(options: dict[str, Any]) -> None:
    """Serve until the input ends."""
    handler = _Warnings(logging.WARNING)
    for name in ("asyncio", "uvicorn", "glimp_integrations.serve"):
        logging.getLogger(name).addHandler(handler)
    warnings.simplefilter("always", ResourceWarning)
    warnings.simplefilter("always", RuntimeWarning)
    warnings.showwarning = lambda message, *_, **__: tell(what="warning", text=str(message)[:1000])
    backends = {
        role: OpenAIBackend(
            f"{role}-model",
            base_url=options["urls"][role],
            api_key=options["key"],
            chat_template=TEMPLATE if options["shapes"][role] == "generic" else None,
        )
        for role in ("small", "large")
    }
    router = GlimpRouter(
        route="always",
        **backends,
        threshold=1.0,
        temperature=0.0,
        think_tags=("<think>", "</think>"),
        timeout=options["timeout"],
        max_retries=options["max_retries"],
    )
    config = ServeConfig.load(port=0, access_log=options["log"], max_running=options["at_once"])
    own: dict[str, Any] = {}

    async def before() -> None:
        await sample(0.0)  # starts the loop of all models, which stays
        own["before"] = await sample(0.0)
        tell(what="url", url=own["url"])

    def announce(url: str) -> None:
        own.update(url=url, loop=asyncio.get_running_loop())
        own["task"] = own["loop"].create_task(before())
        threading.Thread(target=listen, daemon=True).start()

    def listen() -> None:
        for line in sys.stdin:
            asked = _rested(backends, own["before"]) if line.strip() == "rest" else _held()
            facts = asyncio.run_coroutine_threadsafe(asked, own["loop"]).result()
            tell(what=line.strip(), **facts)
        server.should_exit = True

    server = Server(Application(config, router), announce)
    server.run()
    gc.collect()  # what was left open says so when it goes


async def _held() -> dict[str, Any]:
    return asdict(await sample(0.0))


async def _rested(backends: dict[str, OpenAIBackend], before: Sample) -> dict[str, Any]:
    """What is held more than in the beginning, once everything had time to go."""
    for backend in backends.values():
        await io_loop.acall(backend.aclose)
    until = time.monotonic() + _REST_SECONDS
    while True:
        gc.collect()
        now = await sample(0.0)
        more = now.tasks > before.tasks or now.descriptors > before.descriptors
        if not more or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    tasks: list[str] = []
    if now.tasks > before.tasks:
        tasks = await _names() + await io_loop.acall(_names)
    return {"tasks": tasks, "descriptors": max(0, now.descriptors - before.descriptors)}


async def _names() -> list[str]:
    own = asyncio.current_task()
    return [repr(task)[:300] for task in asyncio.all_tasks() if task is not own]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
