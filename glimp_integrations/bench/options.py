"""``KEY=VALUE,...`` after the name of an arm or of a task."""

from __future__ import annotations

import json
import re
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["read_options"]


def read_options(owner: str, text: str) -> dict[str, Any]:
    """The options in a text; values are JSON where they can be read as that, else text.

    Args:
        owner: The arm or the task that they belong to, for the error.
        text: ``KEY=VALUE``, separated by commas; may be empty. A value may have commas of its own.

    Raises:
        ConfigError: A part is not ``KEY=VALUE``.
    """
    options: dict[str, Any] = {}
    for part in re.split(r",(?=\s*[A-Za-z_][\w.]*=|\s*$)", text) if text else []:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not key or not value:
            raise ConfigError(f"{owner}: {part!r} is not KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except (ValueError, RecursionError):
            options[key] = value
    return options
