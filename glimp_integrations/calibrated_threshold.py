"""A calibration as it is stored, and the warning when it is used under other conditions.

A threshold belongs to what it was measured with: H of another model, another quantisation, another
estimator or k is another quantity, and the same number means another share.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from glimp_integrations.errors import ConfigError
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.files import complaint_of_file, write

__all__ = [
    "PREFIX",
    "CalibratedShare",
    "CalibratedThreshold",
    "Calibration",
    "CalibrationWarning",
    "Conditions",
]

PREFIX = "calibrated:"


class CalibrationWarning(UserWarning):
    """A calibrated threshold is used with something else than it was measured with."""


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError("the lower end of an interval is above its upper end")
    return interval


# H is at most the logarithm of the vocabulary's size: about 12 nats for the largest there are.
_Nats = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_NatsInterval = Annotated[tuple[_Nats, _Nats], AfterValidator(_in_order)]
_ShareInterval = Annotated[tuple[_Share, _Share], AfterValidator(_in_order)]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Conditions(_Stored):
    """What a threshold belongs to. ``None``: not known."""

    small_model: str
    large_model: str
    quantisation: str | None = Field(default=None, description="Of the small model's weights.")
    template: str | None = Field(default=None, description="Hash of the small model's template.")
    estimator: str
    k: int | None = Field(
        default=None, ge=1, description="Likeliest tokens seen; None: all of them."
    )
    step_delimiter: str = "\n\n"
    glimpse: str = "first_token"

    def differences(self, other: Conditions) -> list[str]:
        """What is known of both and not the same, in words: ``"k 20, here 5"``."""
        pairs = (
            (name, getattr(self, name), getattr(other, name)) for name in type(self).model_fields
        )
        return [
            f"{name.replace('_', ' ')} {mine!r}, here {theirs!r}"
            for name, mine, theirs in pairs
            if mine != theirs and (name == "k" or None not in (mine, theirs))
        ]


class Calibration(_Stored):
    """A threshold and how it was found. All shares are of glimpsed steps, 0 to 1."""

    format: Literal[1] = 1
    threshold: _Nats = Field(description="Nats.")
    threshold_interval: _NatsInterval = Field(description="95 %, over prompts; nats.")
    large_share: float = Field(gt=0, lt=1, description="The share that was wanted.")
    share: _Share = Field(description="The share above the threshold, of the boundaries used.")
    share_interval: _ShareInterval = Field(description="95 %, over prompts.")
    held_out_share: _Share | None = Field(
        default=None, description="Measured on prompts that were not used."
    )
    held_out_interval: _ShareInterval | None = None
    boundaries: int = Field(ge=1, description="Glimpsed steps the threshold was taken from.")
    prompts: int = Field(ge=1, description="How many prompts were run.")
    rounds: int = Field(ge=1, description="How often the threshold was fitted.")
    conditions: Conditions
    date: str = Field(description="ISO 8601.")
    version: str = Field(description="Of glimp-integrations.")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration file.

        Raises:
            ConfigError: There is none, or it is something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, a null character in path
            raise ConfigError(
                f"no calibration can be read from {str(path)!r} ({error}): "
                "make one with `glimp calibrate`"
            ) from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(
                f"{str(path)!r} is not a calibration file: {complaint_of_file(error)}; "
                "make one with `glimp calibrate`"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the calibration to a file as JSON.

        Raises:
            ConfigError: The file cannot be written.
        """
        data = plain(self.model_dump(mode="json"))
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        write(path, text, "the calibration")


class _Calibrated(float):
    """A number that knows where it comes from.

    Attributes:
        calibration: How it was found.
        source: The file it was read from.
    """

    calibration: Calibration
    source: str

    def __new__(cls, calibration: Calibration, source: str) -> Self:
        made = super().__new__(cls, cls._value(calibration))
        made.calibration, made.source = calibration, source
        return made

    @staticmethod
    def _value(calibration: Calibration) -> float:
        raise NotImplementedError

    def __getnewargs__(self) -> tuple[Any, ...]:  # copies and pickles keep what it knows
        return self.calibration, self.source

    @classmethod
    def read(cls, text: str) -> Self:
        """What ``"calibrated:FILE"`` names.

        Raises:
            ConfigError: The file cannot be used.
        """
        source = text.removeprefix(PREFIX).strip()
        if not source:
            raise ConfigError(f"the setting is {text!r}: name the file after the colon")
        return cls(Calibration.load(os.path.expanduser(source)), source)


class CalibratedShare(_Calibrated):
    """The share that a calibration was made for; its threshold is where routing begins."""

    @staticmethod
    def _value(calibration: Calibration) -> float:
        return calibration.large_share


class CalibratedThreshold(_Calibrated):
    """A threshold in nats that knows where it comes from."""

    @staticmethod
    def _value(calibration: Calibration) -> float:
        return calibration.threshold

    def compare(self, conditions: Conditions) -> None:
        """Warn (:class:`CalibrationWarning`) if a call's conditions are not its own."""
        if differences := self.calibration.conditions.differences(conditions):
            warnings.warn(
                f"the threshold of {self.source!r} was calibrated with {'; '.join(differences)}: "
                f"the share will not be {self.calibration.large_share:.0%}; calibrate anew",
                CalibrationWarning,
                stacklevel=2,
            )
