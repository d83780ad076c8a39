"""The right text of a conversation, which both models know.

The small model writes it in lower case and the large one in upper case, so every letter proves who
wrote it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ASSISTANT", "CLOSE", "OPEN", "RightText", "draw_alike", "draw_text", "lowered"]

ASSISTANT = "<|assistant|>"
"""What every rendered prompt ends with."""
OPEN, CLOSE = "<think>\n", "</think>"

# Two-byte letters are cut in half when a reply ends at any byte. Upper case has the same length.
_WORDS = (
    *("alpha", "brävo", "çhar", "délta", "échø", "föxtrot", "gölf"),
    *("жук", "ёлка", "ωmega", "π2", "x9", "(hm),", "ok!"),
)


@dataclass(frozen=True)
class RightText:
    """What both models write.

    Attributes:
        question: The user's message; no other conversation has it.
        tokens: The text in lower case, token by token, without the opening think tag.
        hard: Numbers of the tokens at which the small model is uncertain.
        authors: Who writes each step, the answer last.
        reasoning: The chain of thought in lower case.
        answer: The answer in lower case.
    """

    question: str
    tokens: tuple[str, ...]
    hard: frozenset[int]
    authors: tuple[str, ...]
    reasoning: str
    answer: str

    @property
    def text(self) -> str:
        """All of it in lower case."""
        return "".join(self.tokens)

    def after(self, written: str, role: str) -> Iterator[tuple[str, bool]]:
        """The tokens that follow, as this model writes them, and whether it is uncertain there."""
        place = 0
        for number, token in enumerate(self.tokens):
            rest = token[max(0, len(written) - place) :]
            place += len(token)
            if place > len(written):
                yield in_case(rest, role), number in self.hard and rest == token

    def begins(self, written: str) -> bool:
        """Whether this is a beginning of the right text, by whomever it was written."""
        return self.text.startswith(lowered(written))


def in_case(text: str, role: str) -> str:
    """A text as one of the models writes it; tags stay as they are."""
    return text.upper() if role == "large" and text != CLOSE else text


def lowered(text: str) -> str:
    """A text in lower case."""
    return text.lower()


def draw_text(draw: random.Random, question: str, answer_by: str) -> RightText:
    """A conversation of two to four steps, the first of which is sometimes hard."""
    steps: list[tuple[bool, list[str]]] = []
    for _ in range(draw.randint(2, 4)):
        is_hard = draw.random() < 0.4
        steps.append((is_hard, _words(draw, draw.randint(1, 5))))
    return _made(question, steps, _words(draw, draw.randint(1, 6)), answer_by)


def draw_alike(draw: random.Random, question: str) -> RightText:
    """A conversation of five steps, two of them hard, with as many tokens as any other such one."""
    steps = [(step in (1, 3), _words(draw, 7)) for step in range(5)]
    return _made(question, steps, _words(draw, 14), "large")


def _words(draw: random.Random, count: int) -> list[str]:
    return [draw.choice(_WORDS) for _ in range(count)]


def _made(
    question: str, steps: list[tuple[bool, list[str]]], answer: list[str], answer_by: str
) -> RightText:
    tokens: list[str] = []
    hard: set[int] = set()
    for number, (is_hard, words) in enumerate(steps):
        if is_hard:
            hard.add(len(tokens))
        tokens += [f"{words[0]}s{number}", *(f" {word}" for word in words[1:])]
        tokens.append(".\n" if number == len(steps) - 1 else ".\n\n")
    answers = ["end", *(f" {word}" for word in answer), "."]
    return RightText(
        question=question,
        tokens=(*tokens, CLOSE, "\n\n", *answers),
        hard=frozenset(hard),
        authors=(*("large" if is_hard else "small" for is_hard, _ in steps), answer_by),
        reasoning="".join(tokens),
        answer="".join(answers),
    )
