"""Tokens that only shape a step: bullets, list numbers, Markdown marks, openings of formulas.

At a step's start they are often the likeliest by far, whatever follows, so the entropy of the
first token says little there. ``glimpse="skip_format"`` looks past them.
"""

from __future__ import annotations

import re

__all__ = ["MOST_SKIPPED", "only_formats"]

MOST_SKIPPED = 3
"""Tokens that a glimpse passes over at most."""

# White space; a list's number or bullet; quotes and headings; bold, italics, code; a formula.
_FORMAT = re.compile(
    r"\s*(?:\d{1,3}[.)]?|[-+•·–—*](?=\s|$)|>|\#{1,6})?\s*(?:[*_`~|]{1,3})?\s*(?:\\[\[(]?|\${1,2})?\s*"
)


def only_formats(text: str, delimiter: str) -> bool:
    """Whether a step that begins with ``text`` has said nothing yet.

    Args:
        text: What was glimpsed so far.
        delimiter: Ends a step; after it there is nothing to look at.
    """
    return bool(text) and delimiter not in text and _FORMAT.fullmatch(text) is not None
