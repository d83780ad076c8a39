"""A backend without a model, for tests: its output comes from a script.

Use it to try chains, adapters and the handling of failures without weights. Its entropies and
probabilities are made up.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import (
    Backend,
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
    hands_over,
)
from glimp_integrations.errors import BackendError
from glimp_integrations.method.sampling import FURTHER_SAMPLING

__all__ = ["ScriptedBackend", "ScriptedToken", "uniform"]

ScriptedToken = tuple[bytes, float]
"""A token's bytes, and the entropy H at its place in nats.

The bytes may be a part of a UTF-8 character; ``b""`` ends the sequence."""


def uniform(entropy: float, k: int = 20) -> tuple[float, ...]:
    """Log-probabilities of the top k tokens that have a given entropy.

    There is one likely token and k - 1 equally unlikely ones; their probabilities are found by
    bisection.

    Args:
        entropy: The renormalised entropy in nats, from 0 to ln k.
        k: The number of tokens.

    Returns:
        Log-probabilities in nats, highest first, shape ``(k,)``.

    Raises:
        ValueError: The entropy is out of range.
    """
    limit = math.log(k)
    if not 0.0 <= entropy <= limit:
        raise ValueError(f"entropy must lie in [0, ln {k} = {limit:.3f}] nats, got {entropy}")
    if entropy == 0.0:
        return (0.0, *([-math.inf] * (k - 1)))
    low, high = 1.0 / k, 1.0
    for _ in range(60):
        top = (low + high) / 2
        rest = (1 - top) / (k - 1)
        h = -top * math.log(top) - ((k - 1) * rest * math.log(rest) if rest > 0 else 0.0)
        low, high = (top, high) if h > entropy else (low, top)
    rest = max((1 - high) / (k - 1), 1e-300)
    return (math.log(high), *([math.log(rest)] * (k - 1)))


class ScriptedBackend(Backend):
    """Continues text by a script.

    Args:
        script: The whole continuation as tokens; the next one is found by comparing the text so
            far with it. Or a function from the text after the generation prompt, as bytes, to the
            next token.
        name: Name shown in traces and errors.
        generation_prompt: The end of every rendered conversation, such as ``"<assistant>"``.
        chunk_sizes: Sizes of the groups in which tokens are streamed, used in turn, when no
            log-probabilities are asked for; like a server that streams several tokens at once.
        context_window: In tokens; every character of the prompt counts as one.
        fail_after: Number of tokens in all after which it fails with a ``BackendError``; ``None``
            if it never fails.
        failures: How often it fails.
        retryable: Whether these errors can be retried.
        delay: Seconds before every token.
        top_logprobs: How many log-probabilities it can return; 0 for none.
        template: Source of the chat template that it reports.
        supports_schema: Whether it reports that it follows schemas. The script has to do so.
        sampling: Which further sampling settings it reports to follow. The script has to do so.

    Attributes:
        requests: All requests so far.
        closed_early: How many streams were closed before their end.
    """

    def __init__(
        self,
        script: Sequence[ScriptedToken | str] | Callable[[bytes], ScriptedToken],
        *,
        name: str = "scripted",
        generation_prompt: str = "<assistant>\n",
        chunk_sizes: Sequence[int] = (1,),
        context_window: int | None = None,
        fail_after: int | None = None,
        failures: int = 1_000_000,
        retryable: bool = False,
        delay: float = 0.0,
        top_logprobs: int = 20,
        template: str | None = None,
        supports_schema: bool = False,
        sampling: Collection[str] = FURTHER_SAMPLING,
    ) -> None:
        self.name = name
        self._next = script if callable(script) else _follow(script)
        self._generation_prompt = generation_prompt
        self._chunk_sizes = list(chunk_sizes)
        self._window = context_window
        self._fail_after = fail_after
        self._failures = failures
        self._retryable = retryable
        self._delay = delay
        self._top = top_logprobs
        self._template = template
        self._supports_schema = supports_schema
        self._sampling = frozenset(sampling)
        self._generated = 0
        self.requests: list[Request] = []
        self.closed_early = 0

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            context_window=self._window,
            top_logprobs=self._top,
            streamed_logprobs=self._top > 0,
            supports_schema=self._supports_schema,
            sampling=self._sampling,
            raw_under_penalties=True,
            template=self._template,
        )

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        text = "".join(f"<tool>{json.dumps(tool, ensure_ascii=False)}\n" for tool in tools)
        text += "".join(f"<{m['role']}>{m['content']}\n" for m in messages)
        text += self._generation_prompt
        return Rendered(text, tokens=len(text))

    @hands_over
    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self.requests.append(request)
        text = request.prompt.rpartition(self._generation_prompt)[2].encode()
        report.prompt_tokens = len(request.prompt)
        report.completion_tokens = 0
        sizes = iter(self._chunk_sizes * (request.max_tokens + 1))
        group = _Group(size=1 if request.logprobs else next(sizes))
        try:
            for _ in range(request.max_tokens):
                if self._delay:
                    await asyncio.sleep(self._delay)
                self._maybe_fail()
                if self._window is not None and len(request.prompt) + len(text) >= self._window:
                    report.ended = "context"
                    break
                data, entropy = self._next(text)
                report.completion_tokens += 1
                self._generated += 1
                text += data
                logprobs = uniform(entropy) if request.logprobs and self._top else None
                if not data:
                    report.ended = "eos"
                piece = group.add(data, logprobs)
                if piece is not None or not data:
                    if (last := piece or group.flush()) is not None and not _taken(request, last):
                        yield last
                    group = _Group(size=1 if request.logprobs else next(sizes), rest=group.rest)
                if not data:
                    return
            else:
                report.ended = "length"
            if (last := group.flush()) is not None and not _taken(request, last):
                yield last
        finally:
            if report.ended is None:
                self.closed_early += 1

    def _maybe_fail(self) -> None:
        due = self._fail_after is not None and self._generated >= self._fail_after
        if due and self._failures > 0:
            self._failures -= 1
            raise BackendError(
                "the script says: fail here", model=self.name, retryable=self._retryable
            )


def _taken(request: Request, token: Token) -> bool:
    return request.take is not None and request.take(token)


class _Group:
    """Collects tokens for one chunk, and only whole characters as its text.

    Attributes:
        rest: Bytes at the end that are a part of a character; they belong to the next group.
    """

    def __init__(self, size: int, rest: bytes = b"") -> None:
        self.rest = rest
        self._size = size
        self._count = 0
        self._data = b""
        self._logprobs: tuple[float, ...] | None = None

    def add(self, data: bytes, logprobs: tuple[float, ...] | None) -> Token | None:
        if self._count == 0:
            self._logprobs = logprobs
        self._data += data
        self._count += 1
        return self.flush() if self._count >= self._size else None

    def flush(self) -> Token | None:
        if self._count == 0:
            return None
        data = self.rest + self._data
        text = data.decode("utf-8", errors="ignore")
        self.rest = data[len(text.encode()) :]
        count, self._count, self._data = self._count, 0, b""
        return Token(
            text,
            self._logprobs,
            pending=bool(self.rest),
            multi_token=count > 1,
            count=count,
        )


def _follow(script: Sequence[ScriptedToken | str]) -> Callable[[bytes], ScriptedToken]:
    """A function from the text so far to the next token of a fixed script."""
    tokens = [(item.encode(), 0.0) if isinstance(item, str) else item for item in script]
    next_tokens: dict[bytes, ScriptedToken] = {}
    text_so_far = b""
    for data, entropy in tokens:
        next_tokens.setdefault(text_so_far, (data, entropy))
        text_so_far += data

    def follow(text: bytes) -> ScriptedToken:
        return next_tokens.get(text, (b"", 0.0))

    return follow
