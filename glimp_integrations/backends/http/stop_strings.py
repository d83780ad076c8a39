"""Streams that end by themselves where a text is complete, with the exact text.

A stream that is closed early costs the server up to two passes more, until it notices, and on a
shared device the other model waits for them. A stop string costs nothing, but servers cut it off
with all that its token holds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.errors import UnsuitableEndpointError

__all__ = ["generate"]


async def generate(
    endpoint: ModelEndpoint, request: Request, report: Report
) -> AsyncGenerator[Token, None]:
    """Continue ``request.prompt`` until one of ``request.stop`` is written.

    The server's choices carry ``ids``, those of the tokens it has generated, shown or kept back,
    and at the end ``stop``, the text that ended them.
    """
    # The last text that was shown, the ids it was made of, and ids nothing was shown of yet.
    shown, own, kept_back = "", list[int](), list[int]()
    told, stop = 0, ""  # tokens that were counted, the text that ended the stream
    async with aclosing(endpoint.completion(request, report)) as choices:
        async for choice in choices:
            stop = choice["stop_string"] or stop
            kept_back += choice["ids"]
            if text := choice["text"]:
                shown, own, kept_back = text, kept_back, []
                # A character of several tokens comes with the id of its last one.
                told, before = max(told, report.completion_tokens or 0), told
                yield Token(text, multi_token=len(own) != 1, count=told - before)
    if report.ended == "stop_string":
        rest = await _rest(endpoint, stop, shown, [*own, *kept_back])
        count = max(0, (report.completion_tokens or 0) - told)
        texts = await _last(endpoint, kept_back, len(rest)) if count == len(kept_back) > 1 else []
        if "".join(texts) == rest:
            for text in texts:
                yield Token(text)
        else:
            yield Token(rest, multi_token=len(kept_back) > 1, count=count)


async def _last(endpoint: ModelEndpoint, ids: list[int], length: int) -> list[str]:
    """The texts of the last tokens, of as many as hold ``length`` characters."""
    texts: list[str] = []
    try:
        while sum(map(len, texts)) < length and len(texts) < len(ids):
            texts.insert(0, await endpoint.text_of([ids[-1 - len(texts)]]))
    except UnsuitableEndpointError:  # the route is hidden
        return []
    return texts


async def _rest(endpoint: ModelEndpoint, stop: str, shown: str, ids: list[int]) -> str:
    """What the server cut off."""
    try:
        whole = await endpoint.text_of(ids)
    except UnsuitableEndpointError:  # the route is hidden
        return stop
    # Another text: the shown one ends with a character that began in an earlier token.
    rest = whole.removeprefix(shown)
    return rest if whole.startswith(shown) and rest.startswith(stop) else stop
