"""The tokens of a stream, offered to whoever takes them before they are yielded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Take, Token

__all__ = ["Offered"]


class Offered:
    """Reads the choices of one stream, one after the other.

    Args:
        read: From a choice to its tokens.
        take: ``Request.take``.
    """

    def __init__(
        self, read: Callable[[Mapping[str, Any]], Sequence[Token]], take: Take | None
    ) -> None:
        self._read, self._take = read, take
        self._refused: Sequence[Token] = ()  # of the last choice, from the first such token on

    @property
    def take(self) -> Callable[[Mapping[str, Any]], bool] | None:
        """Reads a choice where it arrives, and says whether all of its tokens were taken."""
        return None if self._take is None else self._took_all

    def left(self, choice: Mapping[str, Any]) -> Iterator[Token]:
        """The tokens of a choice that nobody took; it was offered, if there is a :attr:`take`."""
        take = self._take
        if take is None:
            yield from self._read(choice)
            return
        refused, self._refused = self._refused, ()
        for place, token in enumerate(refused):
            if not place or not take(token):
                yield token

    def _took_all(self, choice: Mapping[str, Any]) -> bool:
        assert self._take is not None
        tokens = self._read(choice)
        for place, token in enumerate(tokens):
            if not self._take(token):
                self._refused = tokens[place:]
                return False
        return True
