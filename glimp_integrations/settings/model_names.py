"""How settings name the two models: each by a model string, or both by a pair; and from where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string

__all__ = ["PAIR_VARIABLE", "PLACES", "named_twice", "overruled_names", "with_passwords"]

PLACES = {"small": "GLIMP_SMALL", "large": "GLIMP_LARGE"}
"""Environment variables that name the models."""
PAIR_VARIABLE = "GLIMP_PAIR"
"""The environment variable that names both at once."""


def overruled_names(fields: Mapping[str, Any], given: AbstractSet[str]) -> tuple[str, ...]:
    """Which of ``small``, ``large`` and ``pair`` give way, so that one name of each model is left.

    An argument comes before the environment; two names of one rank are a mistake.

    Args:
        fields: The settings.
        given: Those that are arguments; the others are defaults, from the environment.

    Raises:
        ConfigError: Two names of one rank.
    """
    pair = fields["pair"]
    named = [role for role in PLACES if fields[role] is not None]
    if pair is None or not named:
        return ()
    if "pair" in given:
        if both := [role for role in named if role in given]:
            raise named_twice(pair, both)
        return ("small", "large")
    if given & set(named):
        return ("pair",)
    variables = " and ".join(PLACES[role] for role in named)
    raise ConfigError(
        f"the environment names models twice: {PAIR_VARIABLE} is {pair!r}, and "
        f"{variables} is set as well; unset one, or name the models in the call"
    )


def named_twice(pair: str, roles: Iterable[str]) -> ConfigError:
    """The error where a pair is named, and models besides it."""
    return ConfigError(
        f"pair={pair!r} names both models, and {' and '.join(roles)} as well: give the pair, or "
        "small=... and large=..."
    )


def with_passwords(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings, with the passwords and queries that their model strings had.

    They are known here if the environment names the same model, with a password or query.
    """
    completed = dict(fields)
    for role, variable in PLACES.items():
        model_string = os.environ.get(variable)
        if model_string and public_model_string(model_string) == completed.get(role):
            completed[role] = model_string
    return completed
