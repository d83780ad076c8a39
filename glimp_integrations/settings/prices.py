"""What models cost, and what a call then cost."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from glimp_integrations.errors import ConfigError
from glimp_integrations.trace.records import ModelUsage, Usage

__all__ = ["Price", "Prices", "prices_or_auto"]

MOST_PER_MILLION = 10**9
"""The highest price of a million tokens; in every currency it is far above any model's."""


def _possible_price(value: Any) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value  # for pydantic, which says what it is
    if not 0 <= number <= MOST_PER_MILLION:  # nor NaN
        raise ValueError(
            f"no price of a million tokens; give a number from 0 to {MOST_PER_MILLION:,}, such "
            "as 2.5 where a million tokens cost 2.50"
        )
    return value


PerMillion = Annotated[float, BeforeValidator(_possible_price)]


class Price(BaseModel):
    """What one model costs, in any one currency, per million tokens: 0 to 1e9."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The bounds are for schemas and tables: the validator refuses such values before them, and says
    # what to give.
    input: PerMillion = Field(
        ge=0,
        le=MOST_PER_MILLION,
        description="Per million prompt tokens that were computed.",
    )
    output: PerMillion = Field(
        ge=0, le=MOST_PER_MILLION, description="Per million generated tokens."
    )
    cached: PerMillion | None = Field(
        default=None,
        ge=0,
        le=MOST_PER_MILLION,
        description="Per million cached prompt tokens; None: as input.",
    )

    def of(self, usage: ModelUsage) -> float:
        """What a model's tokens cost, those of cancelled requests included."""
        cached = self.input if self.cached is None else self.cached
        computed = usage.input_tokens - usage.cached_tokens
        return (
            computed * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output
        ) / 1e6


class Prices(BaseModel):
    """Prices of both models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    small: Price
    large: Price

    def of(self, usage: Usage) -> float:
        """What a call cost."""
        return self.small.of(usage.small) + self.large.of(usage.large)


def prices_or_auto(value: Any) -> Any:
    """The setting ``prices``: both models' prices, or ``"auto"`` where they can be looked up.

    Raises:
        ConfigError: A price is not possible, or the package that knows prices is not installed.
    """
    if value is not None and not isinstance(value, str):
        # Here, because a mistake in it would be told together with "should be 'auto'".
        return Prices.model_validate(value)
    if value not in (None, "auto"):
        raise ValueError("give Prices(small=Price(...), large=Price(...)), or 'auto'")
    if value == "auto" and find_spec("genai_prices") is None:
        raise ConfigError(
            "prices='auto' needs genai-prices: pip install 'glimp-integrations[prices]', or "
            "give prices=Prices(small=Price(...), large=Price(...)), per million tokens"
        )
    return value
