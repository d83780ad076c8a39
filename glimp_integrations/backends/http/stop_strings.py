r"""Streams that end by themselves after a stop string, with the exact text.

The router wants a step to end right after its delimiter. It could close the stream there, but the
server only notices that after up to two more passes, and on a shared device the other model has to
wait for them. With a stop string the server ends the stream itself, at no cost.

But servers remove the stop string, together with everything else in the token that completed it.
If the model writes the token ``".\n\n"`` and the stop string is ``"\n\n"``, the stream shows
``"."``. The router needs the text exactly as the model wrote it, because the other model continues
it. So the end of the text is put together here from the ids of the tokens, which the server
reports even where it holds back their text.

Text that could become a stop string is held back too, and where a stream reaches its limit of
tokens just then, the server never shows it. The token ``":\n"`` as the last one of a step is put
together in the same way.

Near the limit, a token waits for the next one: were ``"."`` passed on alone, the router would end
the step at its cap, and never read the rest of ``".\n\n"``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.offered import Offered
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.errors import UnsuitableEndpointError

__all__ = ["generate"]

_INCOMPLETE = "\ufffd"
"""What stands for half a character."""
_NEAR_LIMIT = 4
"""The router may end a step so many tokens before the limit of a request: the most that it asks for
beyond a cap, to complete a character."""


async def generate(
    endpoint: ModelEndpoint, request: Request, report: Report
) -> AsyncGenerator[Token, None]:
    """Continue ``request.prompt`` until one of ``request.stop`` is complete.

    Each choice from the server has ``ids``, the ids of the tokens generated since the choice
    before, whether their text is shown or held back. The last one has ``stop_string``, the stop
    string that ended the stream.

    Args:
        endpoint: The model.
        request: What to generate; its ``stop`` is not empty.
        report: Where to write token counts and the reason of the end.

    Raises:
        UnsuitableEndpointError: The route does not exist; nothing was generated.
        BackendError: The request failed.
    """
    shown = _Shown(request.max_tokens, report)
    offered = Offered(shown.tokens, request.take)
    async with aclosing(endpoint.completion(request, report, take=offered.take)) as choices:
        async for choice in choices:
            for token in offered.left(choice):
                yield token
    held, hidden_ids = shown.held, shown.hidden_ids
    if report.ended == "stop_string" or (report.ended == "length" and hidden_ids):
        # The stop string may begin inside the last token that was shown, so the rest of the text
        # is found by comparing with that token's whole text.
        rest = await _removed_text(
            endpoint, shown.stop_string, shown.text, [*shown.ids, *hidden_ids]
        )
        if held is not None and not hidden_ids:
            yield replace(held, text=held.text + rest)
            return
        if held is not None:
            yield held
        if not rest:
            return
        rest_count = max(0, (report.completion_tokens or 0) - shown.count)
        # The router wants single tokens. Ask for their texts one by one, but only if every hidden
        # token is known by its id.
        texts: list[str] = []
        if rest_count == len(hidden_ids) > 1:
            texts = await _last_texts(endpoint, hidden_ids, len(rest))
        if "".join(texts) == rest:
            for text in texts:
                yield Token(text)
        else:
            yield Token(rest, multi_token=len(hidden_ids) > 1, count=rest_count)
    elif held is not None:
        yield held


class _Shown:
    """What a server has shown of a text, and what it holds back.

    Args:
        most: ``max_tokens`` of the request.
        report: Where the server's running total is; it is written before a choice is read.

    Attributes:
        text: The last text that was shown.
        ids: Its ids.
        hidden_ids: Ids since then, of which no text was shown yet.
        held: A token that was shown, and perhaps not all of its text.
        count: Tokens that were shown, or counted with those.
        stop_string: What ended the stream.
    """

    def __init__(self, most: int, report: Report) -> None:
        self._most, self._report = most, report
        self.text, self.stop_string, self.count = "", "", 0
        self.ids: list[int] = []
        self.hidden_ids: list[int] = []
        self.held: Token | None = None

    def tokens(self, choice: Mapping[str, Any]) -> list[Token]:
        """The tokens that are whole with the next choice."""
        self.stop_string = choice["stop_string"] or self.stop_string
        self.hidden_ids += choice["ids"]
        text = choice["text"]
        if not text:
            return []
        self.text, self.ids, self.hidden_ids = text, self.hidden_ids, []
        # A character of several tokens comes with the id of its last token only. The server's
        # total counts all of them, so the count is taken from there.
        before, self.count = self.count, max(self.count, self._report.completion_tokens or 0)
        tokens = [] if self.held is None else [self.held]
        token = Token(text, multi_token=len(self.ids) != 1, count=self.count - before)
        if self.count < self._most - _NEAR_LIMIT:
            self.held = None
            return [*tokens, token]
        self.held = token
        return tokens


async def _last_texts(endpoint: ModelEndpoint, ids: list[int], length: int) -> list[str]:
    """The texts of the last tokens, as many as are needed for ``length`` characters.

    Returns:
        One text a token; empty if the server does not offer the route.
    """
    texts: list[str] = []
    try:
        while sum(map(len, texts)) < length and len(texts) < len(ids):
            texts.insert(0, await endpoint.text_of([ids[-1 - len(texts)]]))
    except UnsuitableEndpointError:  # the route is hidden
        return []
    return texts


async def _removed_text(
    endpoint: ModelEndpoint, stop_string: str, shown_text: str, ids: list[int]
) -> str:
    """The text that the server removed from the end of the stream.

    Args:
        endpoint: The model.
        stop_string: The stop string that ended the stream; empty where its limit did.
        shown_text: The last text that was shown.
        ids: Ids of the tokens from ``shown_text`` to the end.

    Returns:
        The text from the end of ``shown_text``. It begins with the stop string. If the ids do not
        tell what follows, or end within a character, it is the stop string alone.
    """
    try:
        full_text = await endpoint.text_of(ids)
    except UnsuitableEndpointError:  # the route is hidden
        return stop_string
    rest = full_text.removeprefix(shown_text)
    # The texts differ if the shown one ends with a character that began in an earlier token, whose
    # id is not among these. Then nothing is guessed.
    fits = full_text.startswith(shown_text) and rest.startswith(stop_string)
    if not stop_string and rest.endswith(_INCOMPLETE):
        return ""  # half a character at the limit was held back for that reason
    return rest if fits else stop_string
