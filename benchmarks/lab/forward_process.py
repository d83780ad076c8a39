"""A server in a process of its own that hands on what the models write, and does not route.

    python -m benchmarks.lab.forward_process FILE       # JSON: small, large, turns

Uvicorn and Starlette, as ``glimp serve`` has them; each token is an event in the shape of OpenAI's
chunks. It is told by the script who writes each step, checks nothing, and counts nothing: what it
takes is the least that a server of this kind can take.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.lab.crowd_floor import by_own_client, steps_of, tokens_of

if TYPE_CHECKING:
    from benchmarks.lab.crowd_cells import Work

__all__ = ["ForwardProcess"]

_ROOT = Path(__file__).parents[2]
_END_TAG = "</think>"


class ForwardProcess:
    """A running one.

    Attributes:
        url: The address of its API.
        process: Its process.
    """

    def __init__(self, work: Work) -> None:
        turns = [list(steps_of(script)) for script in work.scripts]
        self._file = tempfile.NamedTemporaryFile("w", suffix=".json")  # noqa: SIM115 - see close()
        json.dump({"small": work.small, "large": work.large, "turns": turns}, self._file)
        self._file.flush()
        self._running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lab.forward_process", self._file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert self._running.stdout is not None
        self.url = self._running.stdout.readline().strip()
        self.process = psutil.Process(self._running.pid)

    def close(self) -> None:
        """End it, as its input's end does."""
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(60)
        self._file.close()


def main() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    opener: Any = None

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        nonlocal opener
        async with by_own_client() as opener:
            yield

    async def completions(request: Request) -> StreamingResponse:
        question = (await request.json())["messages"][0]["content"]
        chain = int(question.removeprefix("chain "))
        return StreamingResponse(body(chain), media_type="text/event-stream")

    async def body(chain: int) -> AsyncGenerator[bytes, None]:
        turns, begin = given["turns"][chain], _chunk({"role": "assistant", "content": ""})
        yield begin
        name, blank = "reasoning_content", True  # nothing of the answer was sent
        tokens = tokens_of(opener, given["small"], given["large"], chain, turns)
        async with aclosing(tokens):
            async for token in tokens:
                if token == _END_TAG:
                    name = "content"
                    continue
                if name == "content" and blank:
                    token = token.lstrip()
                    blank = not token
                if token:
                    yield _chunk({name: token})
        yield b"data: [DONE]\n\n"

    app = Starlette(
        routes=[Route("/v1/chat/completions", completions, methods=["POST"])], lifespan=lifespan
    )
    config = uvicorn.Config(app, log_level="error", access_log=False, loop="asyncio", ws="none")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)

    def end_with_input() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    server.run([listening])


def _chunk(delta: dict[str, str]) -> bytes:
    event = {
        "id": "chatcmpl-forward",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "glimp",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


if __name__ == "__main__":
    main()
