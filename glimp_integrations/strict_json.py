"""Values as strict JSON has them."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["has_lone_surrogate", "plain", "well_formed"]

_SURROGATES = re.compile(r"[\ud800-\udfff]")


def has_lone_surrogate(text: str) -> bool:
    r"""Whether a text contains half of a surrogate pair.

    Such a half is no character of Unicode, and no encoding has it: a text with one can neither be
    written to a file nor sent. ``json.loads`` makes one of an escape such as ``"\ud83d"`` without
    its other half, and the operating system of names that are not UTF-8.
    """
    if text.isascii():
        return False
    try:
        text.encode()  # for long texts much quicker than a search
    except UnicodeEncodeError:
        return True
    return False


def well_formed(text: str) -> str:
    """The text with U+FFFD, the replacement character, for every half of a surrogate pair."""
    return _SURROGATES.sub("\ufffd", text) if has_lone_surrogate(text) else text


def plain(value: Any) -> Any:
    """The same value, infinities and NaN in it as text, and all of its texts well-formed.

    JSON has no such numbers (RFC 8259, section 6); Python's ``json`` writes them all the same, and
    no other reader takes what it wrote. ``float("inf")`` and pydantic read the text back. For half
    surrogate pairs, which UTF-8 does not have, see :func:`well_formed`.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
