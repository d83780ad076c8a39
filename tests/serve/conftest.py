"""A server in a thread, with models from a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from scripts import pair

from glimp_integrations import GlimpRouter
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.server import Server

ANSWER = ("It", " is", " four", ".")
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]


@dataclass
class Served:
    """A running server.

    Attributes:
        router: What answers.
        log: Lines of the access log.
    """

    application: Application
    server: Server
    thread: threading.Thread
    url: str
    router: GlimpRouter
    clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's client."""
        options = {"api_key": "k" * 20, "max_retries": 0, **options}
        self.clients.append(openai.OpenAI(base_url=self.url, **options))
        return self.clients[-1]

    def ask(self, **given: Any) -> Any:
        return self.client().chat.completions.create(
            **{"model": "glimp", "messages": QUESTION, **given}
        )

    def stop(self) -> None:
        self.server.should_exit = True
        for client in self.clients:
            client.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


Serve = Callable[..., Served]


@contextmanager
def servers() -> Iterator[Serve]:
    """Starts servers, and stops them at the end: models first, then ``ServeConfig`` fields."""
    running: list[Served] = []

    def start(models: dict[str, Any] | None = None, **options: Any) -> Served:
        routing = {"temperature": 0, "route": "always", **options.pop("routing", {})}
        router = GlimpRouter(**(models or pair(*ANSWER)), **routing)
        config = ServeConfig.load(**{"port": 0, "access_log": "", **options})
        application = Application(config, router)
        listening, addresses = threading.Event(), []

        def announce(url: str) -> None:
            addresses.append(url)
            listening.set()

        server = Server(application, announce)
        thread = threading.Thread(target=server.run)
        thread.start()
        assert listening.wait(30)
        running.append(Served(application, server, thread, addresses[0], router))
        return running[-1]

    yield start
    for served in running:
        with suppress(RuntimeError):
            served.stop()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that are stopped after the test."""
    with servers() as start:
        yield start


@pytest.fixture(scope="module")
def serve_all() -> Iterator[Serve]:
    """Starts servers for all tests of a file."""
    with servers() as start:
        yield start
