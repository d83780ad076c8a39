"""``KEY=VALUE,...`` behind the name of an arm or of a task."""

from __future__ import annotations

import json
import re
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["read_options"]


def read_options(owner: str, text: str) -> dict[str, Any]:
    """The options in a text; values are JSON where they can be read as that, else text.

    Args:
        owner: Whose options these are, for the error.
        text: ``KEY=VALUE``, separated by commas; may be empty. A value may have commas of its own.

    Raises:
        ConfigError: A part is no ``KEY=VALUE``.
    """
    found: dict[str, Any] = {}
    for part in re.split(r",(?=\s*[A-Za-z_]+=|\s*$)", text) if text else []:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not key or not value:
            raise ConfigError(f"{owner}: {part!r} is no KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
