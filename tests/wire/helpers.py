"""Shared by the tests of this folder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.fake_server import GENERATION_PROMPT, Tok

# A chain without think tags: easy, hard (H > 1), easy.
CHAIN: list[Tok | str] = [
    "First",
    ",",
    " look",
    ".\n\n",
    (b"Then", 2.0),
    " a",
    " hard",
    " step",
    ".\n\n",
    "So",
    " it",
    " is",
    " 42",
    ".",
]
REASONING, ANSWER = "First, look.\n\nThen a hard step.\n\n", "So it is 42."

# The same with think tags, characters of several tokens included.
THOUGHT: list[Tok | str] = [
    "<think>",
    "\n",
    "Caf",
    (b"\xc3", 0.1),
    (b"\xa9", 0.1),
    " first",
    ".\n\n",
    (b"Then", 2.0),
    " a",
    " hard",
    " step",
    ".\n",
    "</think>",
    "\n\n",
    "It",
    " is",
    " 42",
    " \N{GRINNING FACE}",
    ".",
]
THOUGHT_REASONING = "Café first.\n\nThen a hard step.\n"
THOUGHT_ANSWER = "It is 42 \N{GRINNING FACE}."

MESSAGES = [{"role": "user", "content": "What is it?"}]
# What is tested is how calls are routed, so all of them are, however long a slow server takes.
GREEDY: dict[str, Any] = {"temperature": 0.0, "threshold": 1.0, "route": "always"}


def chat(text: str = "") -> str:
    """A rendered prompt that the fakes go on from."""
    return f"<|im_start|>user\nhi<|im_end|>\n{GENERATION_PROMPT}{text}"


def collect(
    backend: OpenAIBackend, prompt: str, *, max_tokens: int = 100, logprobs: int = 0, **fields: Any
) -> tuple[list[Token], Report]:
    """All tokens of one request."""
    report = Report()
    request = Request(prompt, max_tokens, logprobs=logprobs, **fields)

    async def read() -> list[Token]:
        async with aclosing(backend.generate(request, report)) as tokens:
            return [token async for token in tokens]

    return io_loop.call(read), report


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An error with everything it hangs on to."""
    errors: list[BaseException] = []
    todo = [error]
    while todo:
        item = todo.pop()
        if item is not None and item not in errors:
            errors.append(item)
            todo += [item.__cause__, item.__context__]
    return errors


def started_together(script: str, signs: Sequence[Path], go: Path) -> list[tuple[str, str]]:
    """Run a script in several processes, each with a file of its own to make when it is ready.

    Args:
        script: Python; makes the file that ``sys.argv[1]`` names, then waits for ``go``.
        signs: The files, one for each process.
        go: Made when all of them are there.

    Returns:
        What each process printed, and its errors.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(sign)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for sign in signs
    ]
    give_up = time.monotonic() + 60.0
    while not all(sign.exists() for sign in signs) and time.monotonic() < give_up:
        time.sleep(0.01)
    go.touch()
    return [process.communicate(timeout=60) for process in processes]
