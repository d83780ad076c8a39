"""Ids of tool calls."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

__all__ = ["new_ids"]


def new_ids() -> Callable[[int], str]:
    """Ids for the calls of one reply: nine letters and digits, as Mistral's templates demand.

    Returns:
        From a call's number to its id: the same id whenever it is asked for the same number.
    """
    characters = string.ascii_letters + string.digits
    base = "".join(secrets.choice(characters) for _ in range(6))
    return lambda number: f"{base}{number:03}"[-9:]
