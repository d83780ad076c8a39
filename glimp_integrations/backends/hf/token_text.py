"""From text to token ids and back, for text that grows at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.backends.chat_templates import special_tokens

__all__ = ["IncrementalDetokenizer", "TokenHistory", "Vocabulary"]

_WORD = "x"
_ANCHORS = ("\n", "x", "0", ":")
_INCOMPLETE = "\ufffd"
# No character has more bytes, so no more tokens belong to one.
_CHARACTER_TOKENS = 4


class Vocabulary:
    """A tokenizer as this package uses it, with exact text in both directions.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchors = self._find_anchors()
        self._word = self._encode(_WORD, inside=True)

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """Token ids of a text that goes on.

        Args:
            text: The text; control tokens in it are read as such.
            inside: Whether other text comes before it, so that the tokenizer must not add the
                space it puts at the beginning of a text.
        """
        if text[-1:].isspace():
            # GPT-2's rule reads a blank line before a word as two tokens, and at the end of a text
            # as one, which no model has seen before a word. So a word is added and taken off.
            ids = self._encode(text + _WORD, inside=inside)
            if ids[-1:] == self._word:
                return ids[:-1]
        return self._encode(text, inside=inside)

    def _encode(self, text: str, *, inside: bool) -> list[int]:
        for literal, prefix in self._anchors if inside else ():
            ids = self._plain(literal + text)
            if ids[: len(prefix)] == prefix:
                return ids[len(prefix) :]
        return self._plain(text)

    def decode(self, ids: list[int]) -> str:
        """The exact text of token ids."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def control_tokens(self) -> set[str]:
        """All control tokens of the tokenizer."""
        return special_tokens(self._tokenizer)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _find_anchors(self) -> list[tuple[str, list[int]]]:
        """Texts to put first where the tokenizer would add a space at the beginning of a text.

        There are several, because one may form a token with the text that follows it.
        """
        first = self._tokenizer.convert_ids_to_tokens(self._plain("x"))[:1]
        adds_space = bool(first) and first[0].startswith("\u2581")
        return [(literal, self._plain(literal)) for literal in _ANCHORS] if adds_space else []


@dataclass(slots=True)
class TokenHistory:
    """The ids of one conversation's text, as they were written.

    A model's own tokens are kept as it chose them, which may differ from how its tokenizer splits
    the same text. Text of the other model is encoded once, when it is added. So the ids never
    change afterwards, and with them the cached keys and values stay valid.
    """

    _chunks: list[tuple[list[int], str]] = field(default_factory=list)

    def ids(self, prompt: str, vocabulary: Vocabulary) -> list[int]:
        """Token ids of ``prompt``: stored ones as far as the text agrees, new ones for the rest."""
        position = 0
        for index, (_, text) in enumerate(self._chunks):
            if not prompt.startswith(text, position):
                del self._chunks[index:]
                break
            position += len(text)
        if position < len(prompt):
            rest = prompt[position:]
            self._chunks.append((vocabulary.encode(rest, inside=position > 0), rest))
        return [token for ids, _ in self._chunks for token in ids]

    def append(self, ids: list[int], text: str) -> None:
        """Add ``ids`` that the model wrote; their ``text`` is not empty."""
        self._chunks.append((ids, text))


class IncrementalDetokenizer:
    """The text of generated tokens, one by one.

    Each is decoded together with a few neighbours, so that the cost of a token does not grow with
    the text.

    Args:
        vocabulary: The model's vocabulary.
        before: The ids before the generated ones; a few are enough.
    """

    def __init__(self, vocabulary: Vocabulary, before: list[int]) -> None:
        self._vocabulary = vocabulary
        # A decoder joins neighbouring bytes, so the ids before must begin with a whole character.
        ends = [before[-count:] for count in range(1, _CHARACTER_TOKENS + 1)]
        self._context = next((e for e in ends if _INCOMPLETE not in vocabulary.decode(e)), ends[-1])
        self._context_text = vocabulary.decode(self._context)
        self._open: list[int] = []

    def add(self, token: int) -> tuple[list[int], str]:
        """Add the next token.

        Returns:
            The ids of one or more whole characters and their text; ``([], "")`` while a
            character is incomplete.
        """
        self._open.append(token)
        count = len(self._open)
        text = self._text(count)
        if not text or text.endswith(_INCOMPLETE):
            if count < _CHARACTER_TOKENS:
                return [], ""
            # The first of them are not part of a character, but the others may be.
            texts = [self._text(n) for n in range(1, count + 1)]
            text = next((t for t in texts if t), "")
            count = max(n for n in range(1, count + 1) if texts[n - 1] in ("", text))
        ids, self._open = self._open[:count], self._open[count:]
        if text:
            self._context, self._context_text = ids, self._vocabulary.decode(ids)
        return ids, text

    def _text(self, count: int) -> str:
        """The text of the first ``count`` open tokens."""
        together = self._vocabulary.decode(self._context + self._open[:count])
        return together[len(self._context_text) :]
