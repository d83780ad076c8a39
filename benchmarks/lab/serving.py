"""Servers in processes of their own, seen from the benchmark: where they are, and their end."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.lab.loops import Loops

__all__ = ["ServeProcess", "ServerProcess", "bare_session", "text_of"]

_ROOT = Path(__file__).parents[2]
_SECONDS = 60.0
_ANNOUNCED = re.compile(r"^glimp (?:serve|forward): .* at (http://\S+),")


class ServerProcess:
    """A running server, which ends with its standard input.

    Args:
        module: What runs.
        options: Its argument, as JSON.

    Attributes:
        url: The address of its API.
        process: Its process.

    Raises:
        RuntimeError: It did not start; what it said is in the message.
    """

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # the access log, which is written as anywhere
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        self.url = ""
        self._said: list[str] = []
        self._announced = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._announced.wait(_SECONDS) or not self.url:
            self.close()
            raise RuntimeError(f"{module} did not start: {''.join(self._said)[-2000:]!r}")
        self.process = psutil.Process(self._running.pid)

    def close(self) -> None:
        """End it, as its input's end does."""
        assert self._running.stdin is not None
        self._running.stdin.close()
        try:
            self._running.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._running.stderr is not None
        with self._running.stderr as lines:
            for line in lines:
                if not self.url and (found := _ANNOUNCED.match(line)):
                    self.url = found[1]
                    self._announced.set()
                else:
                    self._said.append(line)
        self._announced.set()


class ServeProcess(ServerProcess):
    """A running ``glimp serve``.

    Args:
        models: Arguments of ``OpenAIBackend`` for the small and the large model.
        routing: Routing settings besides the models.
        at_once: Conversations that run at a time.
        loops: Its event loops; see :mod:`benchmarks.lab.loops`.
    """

    def __init__(
        self,
        models: dict[str, dict[str, Any]],
        routing: dict[str, Any],
        *,
        at_once: int,
        loops: Loops = "plain",
    ) -> None:
        options = {
            "models": models,
            "routing": routing,
            "serve": {"port": 0, "max_running": at_once},
            "loops": loops,
        }
        super().__init__("benchmarks.lab.serve_process", options)


@asynccontextmanager
async def bare_session(
    trusted: Path | None = None, key: str | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """An aiohttp client without limits.

    Args:
        trusted: A file with the certificates it trusts; ``None``: the usual ones.
        key: The API key that it shows; ``None``: none.
    """
    tls = True if trusted is None else ssl.create_default_context(cafile=str(trusted))
    async with aiohttp.ClientSession(
        headers=None if key is None else {"authorization": f"Bearer {key}"},
        # A request that crosses the closing of an idle connection fails.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield session


def text_of(body: bytes) -> str:
    """The reasoning and the answer of a streamed reply, one after the other.

    Raises:
        ValueError: It is an error, or it has no end.
    """
    *events, rest = body.split(b"\n\n")
    if rest or not events or events[-1] != b"data: [DONE]":
        raise ValueError(f"the stream ends with {body[-300:]!r}")
    reasoning = answer = ""
    for event in events[:-1]:
        if event.startswith(b":"):
            continue  # a comment, so that no proxy ends the connection
        chunk = json.loads(event.removeprefix(b"data: "))
        if "error" in chunk:
            raise ValueError(f"the stream ends with {chunk['error']['message'][:300]!r}")
        delta = chunk["choices"][0]["delta"]
        reasoning += delta.get("reasoning_content") or ""
        answer += delta.get("content") or ""
    return reasoning + answer
