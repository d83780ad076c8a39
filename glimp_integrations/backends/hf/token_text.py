"""Text to token ids and back, for text that grows at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Ledger", "Speller", "Vocabulary"]

_WORD = "x"
_ANCHORS = ("\n", "x", "0", ":")
_INCOMPLETE = "\ufffd"
# No character has more bytes, so no more tokens belong to one.
_CHARACTER_TOKENS = 4


class Vocabulary:
    """A tokenizer as this package uses it: exact text, control tokens only from templates.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._controls = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
        self._anchors = self._find_anchors()
        self._word = self._encode(_WORD, inside=True)

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """Token ids of a text that goes on.

        Args:
            text: The text; control tokens in it are read as such.
            inside: It stands behind other text, so no begin-of-text space belongs to it.
        """
        if text[-1:].isspace():
            # GPT-2's rule reads a blank line in front of a word as two tokens and one at the
            # end of a text as one, which no model has met in front of a word.
            found = self._encode(text + _WORD, inside=inside)
            if found[-1:] == self._word:
                return found[:-1]
        return self._encode(text, inside=inside)

    def _encode(self, text: str, *, inside: bool) -> list[int]:
        for literal, ids in self._anchors if inside else ():
            found = self._plain(literal + text)
            if found[: len(ids)] == ids:
                return found[len(ids) :]
        return self._plain(text)

    def decode(self, ids: list[int]) -> str:
        """Exact text of token ids."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def is_control(self, literal: str) -> bool:
        """Whether the tokenizer reads a literal as one added or special token."""
        return literal in self._controls

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _find_anchors(self) -> list[tuple[str, list[int]]]:
        """Texts to put in front where the tokenizer would invent a space at the beginning.

        Several, because one may melt into the text behind it.
        """
        first = self._tokenizer.convert_ids_to_tokens(self._plain("x"))[:1]
        invents = bool(first) and first[0].startswith("\u2581")
        return [(literal, self._plain(literal)) for literal in _ANCHORS] if invents else []


@dataclass(slots=True)
class Ledger:
    """The ids of one conversation's text, as they were written.

    A model's own tokens are kept as it chose them, and text of the other model is encoded where
    it stands: so the ids, and with them the cached keys and values, never change afterwards.
    """

    _chunks: list[tuple[list[int], str]] = field(default_factory=list)

    def ids(self, prompt: str, vocabulary: Vocabulary) -> list[int]:
        """Token ids of ``prompt``: known ones as far as the text agrees, the rest encoded."""
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

    def wrote(self, ids: list[int], text: str) -> None:
        """The model wrote ``ids``, which read ``text`` (not empty)."""
        self._chunks.append((ids, text))


class Speller:
    """Text of generated tokens, each decoded with a few neighbours and never the whole text.

    Args:
        vocabulary: Of the model.
        before: Ids in front of the generated ones; a few are enough.
    """

    def __init__(self, vocabulary: Vocabulary, before: list[int]) -> None:
        self._vocabulary = vocabulary
        # A decoder reads neighbouring bytes as a whole, so what stands before must be aligned.
        ends = [before[-count:] for count in range(1, _CHARACTER_TOKENS + 1)]
        self._shown = next((e for e in ends if _INCOMPLETE not in vocabulary.decode(e)), ends[-1])
        self._known = vocabulary.decode(self._shown)
        self._open: list[int] = []

    def add(self, token: int) -> tuple[list[int], str]:
        """Take the next token.

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
            # The first of them belong to no character, but the others may.
            texts = [self._text(n) for n in range(1, count + 1)]
            text = next((t for t in texts if t), "")
            count = max(n for n in range(1, count + 1) if texts[n - 1] in ("", text))
        ids, self._open = self._open[:count], self._open[count:]
        if text:
            self._shown, self._known = ids, self._vocabulary.decode(ids)
        return ids, text

    def _text(self, count: int) -> str:
        """Text of the first ``count`` open tokens."""
        together = self._vocabulary.decode(self._shown + self._open[:count])
        return together[len(self._known) :]
