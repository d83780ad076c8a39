"""The server process: uvicorn, and an end that lets running answers finish."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from glimp_integrations import io_loop
from glimp_integrations.router import GlimpRouter
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.config import ServeConfig

__all__ = ["Server", "run"]

# After the grace time: for errors to be sent, and models to be stopped.
_ENDING_SECONDS = 15
# Proxies keep idle connections for a minute or two (nginx 60 s, LiteLLM 120 s). If this one closes
# them first, a request that is just on its way fails.
_IDLE_SECONDS = 130


class Server(uvicorn.Server):
    """Uvicorn, with a graceful end.

    At SIGTERM or Ctrl-C nobody is let in any more, running answers have ``grace_seconds`` to
    finish, and what still runs then ends with an error that its client can read.

    Args:
        application: What is served.
        started: Called with the address once the server listens.
    """

    def __init__(
        self, application: Application, started: Callable[[str], None] | None = None
    ) -> None:
        self._application, self._announce = application, started
        own = application.config
        super().__init__(
            uvicorn.Config(
                application.asgi,
                host=own.host,
                port=own.port,
                access_log=False,
                log_config=None,
                ws="none",
                lifespan="on",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=int(own.grace_seconds) + _ENDING_SECONDS,
            )
        )

    @property
    def url(self) -> str:
        """The address of the API, once the server listens."""
        listening = self.servers[0].sockets[0]
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if listening.family == socket.AF_INET6 else host
        return f"http://{shown}:{port}/v1"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._announce is not None and self.started:
            self._announce(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        conversations = self._application.conversations
        conversations.close()
        grace = self._application.config.grace_seconds
        ending = asyncio.get_running_loop().call_later(grace, conversations.end)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


def run(config: ServeConfig, router: GlimpRouter | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        config: How.
        router: Answers; ``None``: one is made of ``config.routing``.

    Raises:
        ConfigError: The configuration is not possible.
    """
    application = Application(config, router)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    small, large = application.router.small.name, application.router.large.name

    def announce(url: str) -> None:
        page = url.removesuffix("v1")
        print(
            f"glimp serve: {small} and {large} as {config.model_name!r} at {url}, page {page}",
            file=sys.stderr,
            flush=True,
        )

    server = Server(application, announce)
    # On the loop of the models, so that no token has to wake up another thread.
    with suppress(KeyboardInterrupt), server.capture_signals():
        io_loop.call(server.serve)
