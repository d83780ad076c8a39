"""What is said in a conversation, which client and servers draw from the same seed.

Every request that belongs to one conversation holds its number, so that a server knows whose text
to write. The servers' process imports this, so it knows nothing of the product.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from ..texts import RightText, draw_alike, draw_text

__all__ = ["alike", "number_in", "question", "talk"]

_ANSWER_BY_SMALL = 0.2
_NUMBER = re.compile(r"Conversation \d+/(\d+)\.|<b(\d+)>")


@lru_cache(512)
def talk(seed: int, number: int) -> tuple[RightText, str]:
    """The right text of a conversation, and which model writes the answer."""
    draw = random.Random(f"talk {seed}/{number}")
    answer_by = "small" if draw.random() < _ANSWER_BY_SMALL else "large"
    return draw_text(draw, f"Conversation {seed}/{number}.", answer_by), answer_by


@lru_cache(512)
def alike(seed: int, number: int) -> RightText:
    """The right text of a conversation that takes as long as any other one."""
    draw = random.Random(f"alike {seed}/{number}")
    return draw_alike(draw, f"Conversation {seed}/{number}.")


def question(seed: int, number: int) -> str:
    """What is asked; the tag is one that no server was asked about before."""
    return f"{talk(seed, number)[0].question} Is <b{number}>this</b{number}> it?"


def number_in(text: str) -> int | None:
    """The conversation that a request's text belongs to; ``None`` for requests for all of them."""
    found = _NUMBER.search(text)
    return int(found[1] or found[2]) if found else None
