"""Which routing settings a request may change, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.sampling import FURTHER_SAMPLING
from glimp_integrations.openai_api.errors import invalid
from glimp_integrations.router import FIXED
from glimp_integrations.settings import RoutingSettings

__all__ = ["DEFAULT_ALLOWED", "Allowed", "Bounds"]

NEVER = FIXED | {"policy"}
"""What belongs to whoever runs the server: models, keys and code."""

_PARAMETERS = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "seed",
        "stop",
        "temperature",
        "top_p",
        *FURTHER_SAMPLING,
    }
)
# The most that a request may take, where the server itself has such a limit.
_BUDGETS = frozenset(
    {"deadline", "max_completion_tokens", "max_cost", "max_large_tokens", "max_thinking_tokens"}
)
_READ_FILES = frozenset({"large_share", "threshold"})
_INFINITE = frozenset({"inf", "-inf"})


class Bounds(BaseModel):
    """What a request may set one setting to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(default=None, description="Least value.")
    max: float | None = Field(default=None, description="Greatest value.")
    values: tuple[Any, ...] | None = Field(default=None, description="The only values.")

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min={self.min:g} is greater than max={self.max:g}")
        return self

    def check(self, param: str, value: Any) -> None:
        """Refuse a value outside.

        Raises:
            ApiError: It is (400).
        """
        if self.values is not None and value not in self.values:
            choices = ", ".join(map(repr, self.values))
            raise invalid(f"{param} is {value!r}; this server allows: {choices}", param)
        if self.min is None and self.max is None:
            return
        number = float(value) if value in _INFINITE else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise invalid(f"{param} is {value!r}; expected a number", param)
        if self.min is not None and not number >= self.min:
            raise invalid(f"{param} is {value}; this server allows {self.min:g} at least", param)
        if self.max is not None and not number <= self.max:
            raise invalid(f"{param} is {value}; this server allows {self.max:g} at most", param)


DEFAULT_ALLOWED: dict[str, Bounds] = {
    name: Bounds()
    for name in (
        "answer_by",
        "deadline",
        "first_large_steps",
        "keep_reasoning",
        "large_share",
        "max_cost",
        "max_large_tokens",
        "max_thinking_tokens",
        "route",
        "threshold",
    )
}
"""Where the operator does not say: who writes what, and budgets."""


class Allowed:
    """The settings that requests may change.

    Args:
        bounds: By name; replaces :data:`DEFAULT_ALLOWED`.
        settings: The server's own. Its budgets are the most that a request may take.

    Raises:
        ConfigError: A name is no setting, or one that no request may change.
    """

    def __init__(self, bounds: Mapping[str, Bounds], settings: RoutingSettings) -> None:
        for name in bounds:
            if name in NEVER:
                raise ConfigError(f"allow: no request may change {name!r}; leave it out")
            if name in _PARAMETERS:
                raise ConfigError(
                    f"allow: {name!r} is a parameter that every request may have beside these "
                    "settings; leave it out"
                )
            if name not in RoutingSettings.model_fields:
                raise ConfigError(f"allow: unknown setting {name!r}; see RoutingSettings")
        self._bounds = dict(bounds)
        self._most = {
            name: most for name in _BUDGETS if (most := getattr(settings, name)) is not None
        }

    @property
    def names(self) -> list[str]:
        """Their names."""
        return sorted(self._bounds)

    def changes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a request, checked.

        Raises:
            ApiError: One is not known, or not allowed, or out of bounds (400).
        """
        changes = {}
        for name, value in given.items():
            param = f"glimp.{name}"
            if name not in self._bounds:
                raise invalid(
                    f"unknown parameter {param!r}: this server takes "
                    f"{', '.join(['trace', 'steps', *self.names])} there",
                    param,
                    "unknown_parameter",
                )
            if value is None:
                continue  # as if it were not given: a budget of the server is not lifted
            if name in _READ_FILES and isinstance(value, str) and value not in _INFINITE:
                # The setting itself takes calibrated:FILE, a file of the server.
                raise invalid(f"{param} is {value!r}; expected a number", param)
            self._bounds[name].check(param, value)
            self.check_budget(param, name, value)
            if name == "large_share" and isinstance(value, float):
                # What is learned of a share is kept for each, so there may not be too many.
                value = round(value, 2)
            changes[name] = value
        return changes

    def check_budget(self, param: str, name: str, value: Any) -> None:
        """Refuse more than the server itself allows.

        Raises:
            ApiError: It is more (400).
        """
        most = self._most.get(name)
        if most is not None and isinstance(value, int | float) and not value <= most:
            raise invalid(f"{param} is {value}; this server allows {most} at most", param)
