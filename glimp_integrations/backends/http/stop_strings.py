"""Streams that end by themselves where a text is complete, with the exact text.

A stream that is closed early costs the server up to two passes more, until it notices, and on a
shared device the other model waits for them. A stop string costs nothing, but servers cut it off
with all that its token holds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.errors import UnsuitableEndpointError

if TYPE_CHECKING:
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = ["generate"]

# The last tokens of a text that (nearly) fills its budget are told one by one: whoever set the
# budget allowed for some more than wanted.
_TOLD_SINGLY = 8
_BEGUN = "\ufffd"  # what a server writes for a character that is not complete


async def generate(
    backend: OpenAIBackend, request: Request, report: Report
) -> AsyncGenerator[Token, None]:
    """Continue ``request.prompt`` until one of ``request.until`` is written.

    The server's choices carry ``ids``, those of the tokens it has generated, shown or kept back,
    and at the end ``until``, the text that ended them.
    """
    if request.unseen:
        async with aclosing(backend.completion(request, report)) as choices:
            found = [choice async for choice in choices]
        for token in await _in_one_piece(backend, request, report, found[-1]):
            yield token
        return
    # The last text that was shown, the ids it was made of, and ids nothing was shown of yet.
    shown, own, kept_back = "", list[int](), list[int]()
    told, until = 0, ""  # tokens that were counted, the text that ended the stream
    async with aclosing(backend.completion(request, report)) as choices:
        async for choice in choices:
            until = choice["until"] or until
            kept_back += choice["ids"]
            if text := choice["text"]:
                shown, own, kept_back = text, kept_back, []
                # A character of several tokens comes with the id of its last one.
                told, before = max(told, report.completion_tokens or 0), told
                yield Token(text, divisible=len(own) != 1, count=told - before)
    if report.ended == "until":
        rest = await _rest(backend, until, shown, [*own, *kept_back])
        count = max(0, (report.completion_tokens or 0) - told)
        texts = await _last(backend, kept_back, len(rest)) if count == len(kept_back) > 1 else []
        if "".join(texts) == rest:
            for text in texts:
                yield Token(text)
        else:
            yield Token(rest, divisible=len(kept_back) > 1, count=count)


async def _in_one_piece(
    backend: OpenAIBackend, request: Request, report: Report, choice: dict[str, Any]
) -> list[Token]:
    """A text that came at once, its end token by token: there the chain may have to cut."""
    text, ids, until = choice["text"], choice["ids"], choice["until"]
    count = report.completion_tokens or len(ids)
    try:
        if count > request.max_tokens - _TOLD_SINGLY:
            if report.ended == "eos" and ids and await backend.text_of(ids) != text:
                ids = ids[:-1]  # the end of sequence itself, which has no text
            return await _singly(backend, ids)
    except UnsuitableEndpointError:  # the route is hidden
        pass
    if not until:
        return [Token(text, divisible=True, count=count)] if text else []
    rest = await _rest(backend, until, text, ids)
    last = await _last(backend, ids, len(rest))
    end = "".join(last)
    if not last or not (text + rest).endswith(end):
        return [Token(text, divisible=True, count=count - 1), Token(rest, divisible=True)]
    head = (text + rest).removesuffix(end)
    tokens = [Token(head, divisible=True, count=count - len(last))] if head else []
    return tokens + [Token(piece) for piece in last]


async def _singly(backend: OpenAIBackend, ids: list[int]) -> list[Token]:
    """A text near its budget."""
    start = max(0, len(ids) - _TOLD_SINGLY)
    before = await backend.text_of(ids[:start])
    while before.endswith(_BEGUN):
        start -= 1
        before = await backend.text_of(ids[:start])
    tokens = [Token(before, divisible=True, count=start)] if before else []
    for end in range(start + 1, len(ids) + 1):
        now = await backend.text_of(ids[:end])
        if now.endswith(_BEGUN):
            tokens.append(Token("", pending=True))
            continue
        tokens.append(Token(now.removeprefix(before)))
        before = now
    return tokens


async def _last(backend: OpenAIBackend, ids: list[int], length: int) -> list[str]:
    """The texts of the last tokens, of as many as hold ``length`` characters."""
    texts: list[str] = []
    try:
        while sum(map(len, texts)) < length and len(texts) < len(ids):
            texts.insert(0, await backend.text_of([ids[-1 - len(texts)]]))
    except UnsuitableEndpointError:  # the route is hidden
        return []
    return texts


async def _rest(backend: OpenAIBackend, until: str, shown: str, ids: list[int]) -> str:
    """What the server cut off."""
    try:
        whole = await backend.text_of(ids)
    except UnsuitableEndpointError:  # the route is hidden
        return until
    # Another text: the shown one ends with a character that began in an earlier token.
    rest = whole.removeprefix(shown)
    return rest if whole.startswith(shown) and rest.startswith(until) else until
