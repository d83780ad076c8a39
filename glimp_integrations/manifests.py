"""Manifests: small files that say what the results beside them were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glimp_integrations.unicode_text import shortened

__all__ = ["differences"]


def differences(stored: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """In which fields two manifests differ, in words; empty: in none.

    Args:
        stored: What was read, as JSON data.
        mine: What it is now.
    """
    return "; ".join(
        f"{name} is {_short(stored.get(name))} there and {_short(mine.get(name))} now"
        for name in sorted({*stored, *mine})
        if stored.get(name) != mine.get(name)
    )


def _short(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), 80)
