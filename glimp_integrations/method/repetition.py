"""Chains that go round in circles."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COMPARED", "repeats"]

COMPARED = 4
"""Steps that are looked at."""


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
