"""Chains that go round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from glimp_integrations.method.steps import Step

__all__ = ["COMPARED", "in_circles", "repeats"]

COMPARED = 4
"""Steps that are looked at."""

# A step that ended like this says nothing about what its author would have written.
_BROKEN_OFF = ("error", "call_proposed")


def in_circles(steps: Sequence[Step]) -> bool:
    """Whether the last step, which has just ended, only repeats what was written before it.

    Reasoning and answer are apart, and steps that were broken off do not count.

    Args:
        steps: All steps, in order.
    """
    last = steps[-1]
    if last.end in _BROKEN_OFF:
        return False
    texts = (
        step.text
        for step in reversed(steps)
        if step.is_answer == last.is_answer and step.end not in _BROKEN_OFF
    )
    return repeats([*islice(texts, COMPARED)][::-1])


def repeats(texts: Sequence[str]) -> bool:
    """Whether the last steps only repeat themselves.

    That is so for two equal steps, for two steps in turn (A B A B), and for two steps of nothing
    but white space.

    Args:
        texts: The texts of the last steps, at most :data:`COMPARED`, in order.
    """
    if len(texts) >= 2 and texts[-1] == texts[-2]:
        return True
    if len(texts) >= 2 and not texts[-1].strip() and not texts[-2].strip():
        return True
    return len(texts) == COMPARED and texts[0] == texts[2] and texts[1] == texts[3]
