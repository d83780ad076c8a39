"""What has arrived of one request, held against what was asked for.

Servers and backends are other people's code: they ignore ``max_tokens``, report numbers of tokens
that cannot be, and send half a UTF-16 character. Here is where their tokens enter the runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from glimp_integrations.method.tokens import Token, count_of
from glimp_integrations.unicode_text import without_surrogates

__all__ = ["Arrivals"]

# Drafted tokens may be counted before their text comes (speculative decoding).
_MOST_AHEAD = 64
# Pieces without text beyond max_tokens: ends of sequences, halves of characters.
_MOST_EMPTY = 16

_REPLACEMENT = "\ufffd"


@dataclass(slots=True)
class Arrivals:
    """Checks the tokens of one request, and counts them.

    Args:
        limit: ``max_tokens`` of the request.

    Attributes:
        tokens: How many have arrived.
        overrun: The stream went on behind ``limit``; nothing of that was taken.
    """

    limit: int
    tokens: int = 0
    overrun: bool = False
    _pieces: int = 0  # with text
    _empty: int = 0  # pieces without
    _possible: int = 0  # the most tokens that the text so far can have
    _half: str = ""  # the first half of a UTF-16 pair

    def take(self, token: Token) -> Token | None:
        """The token as the runtime takes it; ``None``: it is beyond the limit.

        Its text is valid Unicode, its log-probabilities are numbers, and its count is one that its
        text can have.

        Args:
            token: As the backend gave it.

        Raises:
            TypeError: It is no token.
        """
        if not isinstance(token, Token) or not isinstance(token.text, str):
            raise TypeError(
                f"generate() has to yield tokens with a text, and yielded {token!r:.80}"
            )
        self._empty += not token.text
        # A count of 0 is that of a drafted token which was counted before its text came.
        full = self._pieces >= self.limit or (self.tokens >= self.limit and token.count != 0)
        if (full and token.text) or self._empty > self.limit + _MOST_EMPTY:
            self.overrun = True
            return None
        text = self._whole_characters(token.text)
        self._pieces += bool(text)
        several = token.multi_token or not text.isascii()
        self._possible += max(1, len(text.encode())) if several else 1
        count = count_of(token.count)
        most = self._possible + min(_MOST_AHEAD, self.limit) - self.tokens
        count = min(1 if count is None else count, max(most, 0))
        self.tokens += count
        logprobs = token.logprobs
        numbers = logprobs is None or set(map(type, logprobs)) == {float}
        if numbers and text == token.text and count == token.count and not self._half:
            return token  # nothing has to be put right
        return replace(
            token,
            text=text,
            logprobs=None if logprobs is None else tuple(map(_number, logprobs)),
            pending=token.pending or bool(self._half),
            count=count,
        )

    def rest(self) -> Token | None:
        """What is left at the end: a first half whose second never came."""
        half, self._half = self._half, ""
        return Token(_REPLACEMENT, count=0) if half else None

    def uncounted(self, total: Any) -> int:
        """Tokens that a server counted, and that did not arrive one by one.

        A character of several tokens arrives as one piece, the end of the sequence perhaps not at
        all. No total can make more tokens of a text than it has bytes.

        Args:
            total: The server's count of the whole request.
        """
        most = min(self._possible, max(self.limit, self.tokens)) + 1
        return max(0, min(count_of(total) or 0, most) - self.tokens)

    def _whole_characters(self, text: str) -> str:
        """The text without lone surrogates; a first half at its end waits for the second."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return without_surrogates(text)


def _number(value: Any) -> float:
    """A number; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
