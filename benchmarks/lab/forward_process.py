"""A server in a process of its own that hands on what the models write, and does not route.

    python -m benchmarks.lab.forward_process OPTIONS    # JSON: small, large, turns

Uvicorn and Starlette, as ``glimp serve`` has them; each token is an event in the shape of OpenAI's
chunks. It is told by the script who writes each step, checks nothing, and counts nothing: what it
takes is the least that a server of this kind can take.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from benchmarks.lab.crowd_floor import by_own_client, tokens_of
from benchmarks.lab.serve_process import end_with_input

_END_TAG = "</think>"


def main() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    given = json.loads(sys.argv[1])
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
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    print(f"glimp forward: no routing at {url}, told by a script", file=sys.stderr, flush=True)
    end_with_input()
    uvicorn.Server(config).run([listening])


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
