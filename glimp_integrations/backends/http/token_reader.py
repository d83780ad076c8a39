"""The tokens of one stream, put right: their log-probabilities, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.chunks import (
    correct_count,
    discount_drafted,
    drop_unmeasurable,
    tokens_of,
    undo_temperature,
)
from glimp_integrations.backends.http.servers import ServerProfile

__all__ = ["TokenReader"]


class TokenReader:
    """Reads the choices of one stream, one after the other.

    Args:
        request: What was asked for.
        report: Where the server's running totals are; they are written before a choice is read.
        server: The server's kind.
        undoes_temperature: Log-probabilities are those after the temperature.
    """

    def __init__(
        self, request: Request, report: Report, server: ServerProfile, *, undoes_temperature: bool
    ) -> None:
        self._k, self._temperature = request.logprobs, request.temperature
        self._report = report
        self._token_per_chunk = server.token_per_chunk
        # Some servers show all entries if they are asked for the distribution only. On the others,
        # entries that share a text are lost, and the gap has to be filled in.
        self._by_text = not server.distribution_body
        self._undoes_temperature = undoes_temperature and request.temperature > 0
        self._before: int | None = 0  # the server's running total of tokens before this choice
        self._ahead = 0  # drafted tokens that are in the total before their text has come

    def tokens(self, choice: Mapping[str, Any]) -> list[Token]:
        """The tokens of the next choice."""
        tokens = drop_unmeasurable(
            tokens_of(
                choice, k=self._k, token_per_chunk=self._token_per_chunk, by_text=self._by_text
            ),
            self._k,
        )
        if not tokens:
            return tokens
        total = self._report.completion_tokens
        if self._before is not None:  # without a total so far, a difference says nothing
            tokens = correct_count(tokens, self._before, total)
            same = total == self._before
            tokens, self._ahead = discount_drafted(tokens, self._ahead, same=same)
        self._before = total
        if self._undoes_temperature:
            return [undo_temperature(token, self._temperature) for token in tokens]
        return tokens
