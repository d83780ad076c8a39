"""JSON as models write it: read generously, and written as chat templates write it. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from glimp_integrations.unicode_text import without_surrogates

__all__ = ["dump", "parse"]

_MAX_LEVELS = 100
"""Levels of nesting. Code that copies, compares or writes values recursively meets Python's
recursion limit soon after."""


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes half a UTF-16 character; most come in pairs, and are whole."""


def parse(text: str, *, exact: bool = False) -> Any:
    """The value of JSON as models write it: strings may hold line breaks.

    Half a UTF-16 character, which only an escape can write, becomes U+FFFD.

    Args:
        text: The JSON.
        exact: Refuse Python's additions to JSON, NaN and the infinities.

    Raises:
        ValueError: It is not JSON, or is nested more deeply than other code could work with.
    """
    too_deep = ValueError(f"nested more than {_MAX_LEVELS} levels deep")
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse if exact else None)
    except RecursionError:
        raise too_deep from None
    levels, level = 0, [value]
    while level := [item for outer in level for item in _items(outer)]:
        levels += 1
        if levels > _MAX_LEVELS:
            raise too_deep
    if _SURROGATE.search(text):
        value = json.loads(without_surrogates(dump(value)))
    return value


def dump(value: Any) -> str:
    """JSON as chat templates write it: on one line, with characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False)


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
