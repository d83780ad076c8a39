"""Texts that UTF-8 cannot write, or that are too long for a message.

The former hold halves of UTF-16 characters, as wrong decoding leaves them.

Python strings may hold such *lone surrogates* (Unicode 15, section 3.8, D72 to D75); no tokenizer,
no server and no JSON document can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["check_text", "shortened", "without_surrogates"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 12  # characters on either side, in messages


def check_text(what: str, value: Any) -> None:
    """Refuse a value with half a character in one of its texts.

    Args:
        what: What it is, for the message.
        value: A text, or mappings and lists of texts; what is neither is not looked into.

    Raises:
        ConfigError: It has one; the message says where, and what to do.
    """
    pending: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while pending:
        place, part = pending.pop()
        if isinstance(part, str):
            # Most texts are ASCII, which Python knows at once.
            if not part.isascii() and (found := _SURROGATE.search(part)):
                raise ConfigError(_in_words(what + place, part, found.start()))
            continue
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            for key, inner in part.items():
                pending += [(f"{place}, a key", key), (f"{place}, {str(key)[:40]!a}", inner)]
        elif isinstance(part, list | tuple):
            pending += [(f"{place}[{index}]", inner) for index, inner in enumerate(part)]


def without_surrogates(text: str) -> str:
    """The text with both halves of a character joined, and U+FFFD for every lone half."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _in_words(where: str, text: str, position: int) -> str:
    begin = max(0, position - _SHOWN)
    near = text[begin : position + 1 + _SHOWN]
    return (
        f"{where}: character {position} is half a UTF-16 character (U+{ord(text[position]):04X}, a "
        f"lone surrogate, in {near!a}), which no model can read. Read the text anew with the right "
        "encoding, or put U+FFFD in its place: "
        "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
    )


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters, for messages; what is cut off ends in three dots."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
