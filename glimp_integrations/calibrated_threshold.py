"""A calibration as it is stored, and the warning when it is used under other conditions.

A threshold belongs to what it was measured with: H of another model, another quantisation, another
estimator or k is another quantity, and the same number means another share.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glimp_integrations.errors import ConfigError

__all__ = ["PREFIX", "CalibratedThreshold", "Calibration", "CalibrationWarning", "Conditions"]

PREFIX = "calibrated:"


class CalibrationWarning(UserWarning):
    """A calibrated threshold is used with something else than it was measured with."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Conditions(_Stored):
    """What a threshold belongs to. ``None``: not known."""

    small_model: str
    large_model: str
    quantisation: str | None = Field(default=None, description="Of the small model's weights.")
    template: str | None = Field(default=None, description="Hash of the small model's template.")
    estimator: str
    k: int | None = Field(default=None, description="Likeliest tokens seen; None: all of them.")
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
    threshold: float = Field(ge=0, description="Nats.")
    threshold_interval: tuple[float, float] = Field(description="95 %, over prompts; nats.")
    large_share: float = Field(gt=0, lt=1, description="The share that was wanted.")
    share: float = Field(description="The share above the threshold, of the boundaries used.")
    share_interval: tuple[float, float] = Field(description="95 %, over prompts.")
    held_out_share: float | None = Field(
        default=None, description="Measured on prompts that were not used."
    )
    held_out_interval: tuple[float, float] | None = None
    boundaries: int = Field(description="Glimpsed steps the threshold was taken from.")
    prompts: int
    rounds: int = Field(description="How often the threshold was fitted.")
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
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"no calibration can be read from {str(path)!r} ({error}): "
                "make one with `glimp calibrate`"
            ) from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(
                f"{str(path)!r} is not a calibration file: {where}: {first['msg']}; "
                "make one with `glimp calibrate`"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the calibration to a file as JSON."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


class CalibratedThreshold(float):
    """A threshold in nats that knows where it comes from.

    Attributes:
        calibration: How it was found.
        source: The file it was read from.
    """

    calibration: Calibration
    source: str

    def __new__(cls, calibration: Calibration, source: str) -> Self:
        made = super().__new__(cls, calibration.threshold)
        made.calibration, made.source = calibration, source
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:  # copies and pickles keep what it knows
        return self.calibration, self.source

    @classmethod
    def read(cls, text: str) -> Self:
        """The threshold that ``"calibrated:FILE"`` names.

        Raises:
            ConfigError: The file cannot be used.
        """
        source = text.removeprefix(PREFIX).strip()
        if not source:
            raise ConfigError(f"threshold is {text!r}: name the file after the colon")
        return cls(Calibration.load(Path(source).expanduser()), source)

    def compare(self, conditions: Conditions) -> None:
        """Warn (:class:`CalibrationWarning`) if a call's conditions are not its own."""
        if differences := self.calibration.conditions.differences(conditions):
            warnings.warn(
                f"the threshold of {self.source!r} was calibrated with {'; '.join(differences)}: "
                f"the share will not be {self.calibration.large_share:.0%}; calibrate anew",
                CalibrationWarning,
                stacklevel=2,
            )
