r"""Grading a reply against a reference answer, by math-verify where it is mathematics.

Mathematics is compared by math-verify (``\frac{1}{2}`` is ``0.5``). Anything else has to be equal
after normalisation: Unicode NFKC, lower case, white space as single spaces, and no quotation
marks, spaces or full stop around it.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.tasks import Grade, Item, Scorer
from glimp_integrations.errors import ConfigError

__all__ = [
    "Reference",
    "by_reference",
    "by_whole_number",
    "is_number",
    "normalise",
    "parse_maths",
    "same_maths",
    "whole_number",
]

_SECONDS = 5
# Characters. Replies are much shorter; this bounds the time of regular expressions.
_LONGEST = 200_000


def parse_maths(text: str) -> list[Any]:
    """The last expression of a text, as sympy objects and then as text.

    The list is empty where there is no expression.

    Raises:
        ConfigError: math-verify is missing.
    """
    try:
        from math_verify import parse
    except ImportError as error:
        raise ConfigError(
            "grading mathematics needs math-verify: pip install 'glimp-integrations[bench]'"
        ) from error
    expressions: list[Any] = parse(text[-_LONGEST:], parsing_timeout=_timeout())
    return expressions


def same_maths(gold: list[Any], answer: list[Any]) -> bool:
    """Whether two parsed expressions are equal."""
    from math_verify import verify

    return bool(gold and answer and verify(gold, answer, timeout_seconds=_timeout()))


def _timeout() -> int:
    # math-verify sets its time limit with a signal, and only the main thread receives signals.
    return _SECONDS if threading.current_thread() is threading.main_thread() else 0


def normalise(text: str) -> str:
    """Text as it is compared; see the docstring of this module."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(" \"'`.“”‘’*$")


def is_number(text: str) -> bool:
    """Whether a text is a decimal number; commas between thousands are allowed."""
    try:
        return Decimal(text.replace(",", "").strip()).is_finite()
    except InvalidOperation:
        return False


class Reference:
    """A reference answer, parsed once: a number, a formula, or words.

    Only texts with a digit or LaTeX in them are given to math-verify, because it reads letters as
    variables: ``True`` would be a product of four of them.
    """

    def __init__(self, answer: str) -> None:
        self.text = answer
        plain = normalise(answer)
        formula = any(c.isdigit() for c in plain) or "\\" in plain or "$" in answer
        is_dollars = answer.strip().startswith("$")
        as_maths = answer if is_dollars or is_number(answer) else f"${answer}$"
        self.maths = parse_maths(as_maths) if formula and " " not in plain else []

    def grade(self, reply: str, style: Format) -> Grade:
        """Grade a reply with 1.0 or 0.0.

        Without a mark, mathematics is looked for in the whole reply, as math-verify does; words
        are looked for in its last line.
        """
        marked = style.find(reply)
        candidate = marked if marked is not None else reply
        is_marked = marked is not None or not style.marks
        if not self.maths:
            if marked is None:
                lines = [line for line in reply.splitlines() if line.strip()]
                candidate = lines[-1].strip() if lines else ""
            same = normalise(candidate) == normalise(self.text)
            return Grade(float(same), candidate or None, is_marked)
        answer = parse_maths(f"\\boxed{{{candidate}}}" if marked is not None else reply)
        return Grade(
            float(same_maths(self.maths, answer)), str(answer[-1]) if answer else None, is_marked
        )


def by_reference(style: Format) -> Scorer:
    """Grades by the item's answer; every answer is parsed once."""
    references: dict[str, Reference] = {}

    def score(item: Item, reply: str) -> Grade:
        if item.id not in references:
            references[item.id] = Reference(item.answer or "")
        return references[item.id].grade(reply, style)

    return score


def whole_number(text: str) -> int | None:
    r"""The whole number that a text is: ``025``, ``1,000``, ``\text{ 25 }``, ``$25$``, ``25.``."""
    plain = re.sub(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol)\s*\{([^{}]*)\}", r"\1", text)
    plain = re.sub(r"[\s$]|\\[,!;: ]|(?<=\d),(?=\d{3})", "", plain)
    found = re.fullmatch(r"([+-]?\d{1,30})(?:\.0*)?", plain, re.ASCII)
    return int(found[1]) if found else None


def by_whole_number(style: Format) -> Scorer:
    r"""Grades answers that are whole numbers, as those of the AIME, by what the reply marks.

    Leading zeros do not matter. What is marked and no number as it stands (``m + n = 25``,
    ``\frac{50}{2}``) is compared by math-verify. A reply without a mark is wrong: numbers of a
    chain of thought that was cut off are not its answer.
    """
    fallback = by_reference(style)

    def score(item: Item, reply: str) -> Grade:
        marked = style.find(reply)
        if marked is None and style.marks:
            return Grade(0.0, None, marked=False)
        number = whole_number(reply if marked is None else marked)
        if number is None:
            return fallback(item, reply)
        return Grade(float(number == whole_number(item.answer or "")), str(number))

    return score
