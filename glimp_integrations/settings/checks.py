"""What the value of one setting has to be, and what an error says where it is not.

The functions that take a ``handler`` come in place of pydantic's own check of the field, which
they may call; :mod:`glimp_integrations.settings.fields` says which field each one is for.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler

from glimp_integrations.calibrated_threshold import PREFIX, CalibratedShare, CalibratedThreshold
from glimp_integrations.unicode_text import check_text

__all__ = [
    "calibrated_share",
    "calibrated_threshold",
    "list_of_stops",
    "not_nan",
    "policy_object",
    "stops_of",
    "stops_with_text",
    "two_tags",
    "without_half_characters",
]


def calibrated_threshold(value: Any, handler: ValidatorFunctionWrapHandler) -> float:
    """A number of nats, or the one that ``"calibrated:FILE"`` names.

    Raises:
        ConfigError: The file cannot be read, or is not a calibration.
    """
    if isinstance(value, CalibratedThreshold):
        return value
    if isinstance(value, str) and value.startswith(PREFIX):
        return CalibratedThreshold.read(value)
    number: float = handler(value)
    return number


def not_nan(value: float) -> float:
    """A threshold that H can be compared with."""
    if math.isnan(value):
        raise ValueError("threshold is NaN; give a number of nats, inf or a negative number")
    return value


def calibrated_share(value: Any, handler: ValidatorFunctionWrapHandler) -> float | None:
    """A share of steps, or the one that ``"calibrated:FILE"`` names.

    Raises:
        ConfigError: The file cannot be read, or is not a calibration.
    """
    if isinstance(value, CalibratedShare):
        return value
    if isinstance(value, str) and value.startswith(PREFIX):
        return CalibratedShare.read(value)
    number: float | None = handler(value)
    return number


def policy_object(value: Any) -> Any:
    """An object that decides, and not its class."""
    if value is not None and not callable(getattr(value, "decide", None)):
        raise ValueError("a policy is an object with a method decide(start)")
    if isinstance(value, type):
        raise ValueError(f"give an object, {value.__name__}(...), not the class")
    return value


def without_half_characters(value: Any, info: ValidationInfo) -> Any:
    """Texts that can be encoded.

    Raises:
        ConfigError: A text holds half a character (a lone surrogate).
    """
    check_text(f"the setting {info.field_name}", value)
    return value


def two_tags(value: Any) -> Any:
    """Think tags: two texts, if there are any."""
    if value and not all(value):
        raise ValueError("think_tags needs two non-empty texts, such as ('<think>','</think>')")
    return value


def stops_of(value: Any) -> Any:
    """Stop strings as a list: a text alone is one of them, not a list of letters."""
    return [value] if isinstance(value, str) else value


def list_of_stops(value: Any) -> Any:
    """Stop strings as a list, whatever kind of sequence they came in."""
    given = stops_of(value)
    if given is not None and (isinstance(given, bytes | dict) or not hasattr(given, "__iter__")):
        raise ValueError("give one text, or a list of texts, such as ['END']")
    return given


def stops_with_text(value: list[str] | None) -> list[str] | None:
    """Stop strings, none of them empty."""
    if value and not all(value):
        raise ValueError("an empty stop string would end every reply at once; leave it out")
    return value
