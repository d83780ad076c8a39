"""Multiple choice: the choices in a fixed order of their own, and grading by the letter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from string import ascii_uppercase

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import normalise
from glimp_integrations.bench.tasks import Grade, Item, Scorer
from glimp_integrations.errors import ConfigError

__all__ = ["by_letter", "choice_item"]

_WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol)\s*\{([^{}]*)\}")
# "B", "(B)", "B) the second one", "B: ...", but not the article of "A field".
_LETTER = re.compile(r"\W*([A-Z])(?:\s*(?:$|[).:,\]}*$]).*)?", re.DOTALL)
_SAID = re.compile(r"\b(?:answer|choice|option)\b(?:\s+is)?\W*([A-Z])\W*$", re.IGNORECASE)


def choice_item(name: str, question: str, right: str, wrong: Sequence[str], place: str) -> Item:
    """An item whose question lists the choices, and whose answer is the letter of the right one.

    The order is that of a hash of the question with each choice: the same in every run, on every
    machine and for every ``--seed``, and without a place that is right more often than another.

    Args:
        name: The item's id.
        question: The question alone.
        right: The right choice.
        wrong: The other choices; those that are given twice stand there once.
        place: Where they come from, for an error.

    Raises:
        ConfigError: There are not at least two different choices, or more than letters.
    """
    texts = list(dict.fromkeys(text.strip() for text in (right, *wrong)))
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise ConfigError(
            f"{place} has {len(texts)} different choices; expected between 2 and "
            f"{len(ascii_uppercase)}"
        )
    texts.sort(key=lambda text: hashlib.sha256(f"{question}\0{text}".encode()).digest())
    listed = dict(zip(ascii_uppercase, texts, strict=False))
    lines = "\n".join(f"{letter}) {text}" for letter, text in listed.items())
    answer = ascii_uppercase[texts.index(right.strip())]
    return Item(name, f"{question.strip()}\n\n{lines}", answer, {"choices": listed})


def by_letter(style: Format) -> Scorer:
    r"""Grades by the letter that a reply marks, or by the text of the choice that it marks.

    ``\boxed{B}``, ``\boxed{\text{(B)}}`` and ``\boxed{B) a field}`` are the letter B. Without a
    mark, the last line is looked at (``The answer is B``, or the letter alone).
    """

    def score(item: Item, reply: str) -> Grade:
        marked = style.find(reply)
        letter = _letter(reply, marked, item.metadata["choices"])
        is_marked = marked is not None or not style.marks
        return Grade(float(letter == item.answer), letter, is_marked)

    return score


def _letter(reply: str, marked: str | None, choices: dict[str, str]) -> str | None:
    lines = [line for line in reply.splitlines() if line.strip()]
    text = (lines[-1] if lines else "") if marked is None else marked
    text = _WRAPPED.sub(r"\1", text).strip()
    for letter, choice in choices.items():
        if normalise(text) == normalise(choice):
            return letter
    found = _LETTER.fullmatch(text) or (_SAID.search(text) if marked is None else None)
    letter = found[1].upper() if found else ""
    return letter if letter in choices else None
