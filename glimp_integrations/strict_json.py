"""Values as strict JSON has them."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """The same value, infinities and NaN in it as text.

    JSON has no such numbers (RFC 8259, section 6); Python's ``json`` writes them all the same, and
    no other reader takes what it wrote. ``float("inf")`` and pydantic read the text back.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
