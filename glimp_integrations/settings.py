"""The routing settings, written once and shared by the core and every adapter."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_validator,
)

from glimp_integrations.calibrated_threshold import PREFIX, CalibratedThreshold
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.entropy import Estimator
from glimp_integrations.redact import public_model_string
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.trace import ModelUsage, Usage

__all__ = [
    "PLACES",
    "KeepReasoning",
    "Price",
    "Prices",
    "RoutingSettings",
    "Strategy",
    "stops_of",
]

Strategy = Literal["auto", "two_request", "fused", "overlap", "in_process"]
KeepReasoning = Literal["tool_loop", "never", "always"]

PLACES = {"small": "GLIMP_SMALL", "large": "GLIMP_LARGE"}
"""Environment variables that name the models."""


class Price(BaseModel):
    """What one model costs, in any one currency, per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(
        ge=0, allow_inf_nan=False, description="Per million prompt tokens that were computed."
    )
    output: float = Field(ge=0, allow_inf_nan=False, description="Per million generated tokens.")
    cached: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
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


class RoutingSettings(BaseModel):
    """Everything that decides how a question is routed. Defaults follow the paper (appendix A).

    ``small`` and ``large`` take a backend object or a model string such as
    ``"openai:Qwen/Qwen3-32B@http://gpu2:8000/v1"``, ``"ollama:qwen3:4b"``,
    ``"llamacpp:/models/small.gguf"`` or ``"hf:Qwen/Qwen3-0.6B"``; with neither named, the
    bundled models are used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    small: Any = Field(
        default_factory=lambda: os.environ.get(PLACES["small"]) or None,
        description="Small model: backend or model string; by default the environment's "
        "GLIMP_SMALL, else None.",
    )
    large: Any = Field(
        default_factory=lambda: os.environ.get(PLACES["large"]) or None,
        description="Large model: backend or model string; by default the environment's "
        "GLIMP_LARGE, else None.",
    )
    threshold: float = Field(
        default=1.0,
        description="Nats. H > threshold: the large model writes the step. inf: the small model "
        "writes all of them, < 0: the large model does; both cost no glimpse. 'calibrated:FILE': "
        "what `glimp calibrate` found.",
    )
    entropy_estimator: Estimator | Literal["auto"] = Field(
        default="auto",
        description="How H is computed: 'topk_renorm' or 'topk_other' from the likeliest tokens, "
        "'full' from the whole vocabulary (small models of this process only). 'auto': full "
        "where it can be had, else topk_renorm. A threshold belongs to its estimator.",
    )
    glimpse: Literal["first_token", "skip_format"] = Field(
        default="first_token",
        description="Which token's entropy decides: the step's first, as in the paper, or the "
        "first behind formatting (bullets, list numbers, white space, '**', '\\\\['). A threshold "
        "belongs to its glimpse.",
    )
    random_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="A control for comparisons: the large model writes a step at random, with this "
        "probability, and not because of H, which is still measured. A question gets the same "
        "random numbers in every run; another seed gives others.",
    )
    step_delimiter: str = Field(default="\n\n", min_length=1, description="Ends a step.")
    max_step_tokens: int = Field(default=512, ge=1, description="Tokens in one step.")
    max_thinking_tokens: int = Field(default=8192, ge=1, description="Kept reasoning tokens.")
    max_tokens: int = Field(
        default=2048,
        ge=1,
        description="Tokens of the answer. Where a model does not think in tags the whole reply "
        "is the chain, and this bounds the reply.",
    )
    answer_by: Literal["large", "small", "router"] = Field(
        default="large", description="Who writes after the end of thinking."
    )
    answer_marker: str | None = Field(
        default=None,
        min_length=1,
        description="For models without think tags: the text after which the answer model "
        "takes over. It belongs neither to the reasoning nor to the answer.",
    )
    untagged_answer: Literal["last_step", "whole"] = Field(
        default="last_step",
        description="For models without think tags and no marker seen: whether the answer is "
        "the chain's last step (the rest is reasoning) or the whole reply.",
    )
    think_tags: tuple[str, str] | Literal[False] | None = Field(
        default=None,
        description="(open, close); None: found in the chat template; False: the models do not "
        "think in tags.",
    )
    temperature: float = Field(
        default=0.6, ge=0, allow_inf_nan=False, description="Sampling temperature; 0: greedy."
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="Nucleus sampling.")
    seed: int | None = Field(default=None, description="Sampling seed; None: random.")
    stop: list[StrictStr] | None = Field(
        default=None,
        description="Strings that end the visible reply and are not part of it; one may stand "
        "alone.",
    )
    strategy: Strategy = Field(
        default="auto", description="How requests are made; never changes decisions."
    )
    warm_prefix_cache: bool = Field(
        default=False,
        description="Let the large model read what the small one has written at the end of every "
        "step, so that it begins its own steps sooner. Costs a request and a token a step; for "
        "models on separate devices and servers that keep prefixes.",
    )
    draft: Literal["small", "prompt_lookup"] | None = Field(
        default=None,
        description="Speculative decoding of what the large model writes: tokens proposed by the "
        "small model, or looked up in the text so far. Both models run in this process.",
    )
    show_schema: bool = Field(
        default=True,
        description="Where an answer has to follow a JSON schema: both models are told of it, and "
        "asked to think first. False: the conversation stays as it is, only the grammar knows.",
    )
    keep_reasoning: KeepReasoning = Field(
        default="tool_loop",
        description="Which reasoning of the conversation's assistant messages the models read "
        "again, where their chat templates have a place for it: 'tool_loop': of those behind the "
        "last message of the user; 'always': of all; 'never': none. Never part of the reply.",
    )
    on_backend_error: Literal["raise", "small", "large"] = Field(
        default="raise", description="Raise, or go on with the named model alone."
    )
    timeout: float | None = Field(
        default=120.0, gt=0, description="Seconds without a byte from an endpoint; None: no limit."
    )
    max_retries: int = Field(default=2, ge=0, description="Attempts after a failed request.")
    prices: Prices | None = Field(default=None, description="Prices, for costs in the trace.")
    api_key: SecretStr | None = Field(
        default_factory=lambda: (
            SecretStr(key) if (key := os.environ.get("GLIMP_API_KEY")) else None
        ),
        exclude=True,
        description="Key for endpoints named by a model string; by default GLIMP_API_KEY.",
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_form = name in ("small", "large") and isinstance(value, str)
            yield name, public_model_string(value) if is_form else value

    @field_serializer("threshold", "timeout", when_used="json")
    def _infinity_is_text_in_json(self, value: float | None) -> Any:
        return None if value is None else plain(float(value))

    @field_serializer("small", "large")
    def _named_without_password(self, value: Any) -> Any:
        return public_model_string(value) if isinstance(value, str) else value

    def __setattr__(self, name: str, value: Any) -> None:
        # What is assigned is not validated, and a text is as easily taken for a list of letters.
        super().__setattr__(name, stops_of(value) if name == "stop" else value)

    @model_validator(mode="wrap")
    @classmethod
    def _mistakes_are_config_errors(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise ConfigError(
                f"{cls.__name__}: "
                + "; ".join(_explain(item) for item in error.errors(include_url=False))
            ) from None

    @field_validator("threshold", mode="wrap")
    @classmethod
    def _calibrated_thresholds_are_read(
        cls, value: Any, handler: ValidatorFunctionWrapHandler
    ) -> float:
        if isinstance(value, CalibratedThreshold):
            return value
        if isinstance(value, str) and value.startswith(PREFIX):
            return CalibratedThreshold.read(value)
        number: float = handler(value)
        return number

    @field_validator("threshold")
    @classmethod
    def _threshold_is_a_number(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("threshold is NaN; give a number of nats, inf or a negative number")
        return value

    @model_validator(mode="after")
    def _random_share_needs_glimpses(self) -> Self:
        if self.random_share is not None and not 0 <= self.threshold < math.inf:
            raise ConfigError(
                "random_share decides at random where the threshold would decide, and with "
                f"threshold {self.threshold} nothing is decided: leave one of them out"
            )
        return self

    @field_validator("think_tags")
    @classmethod
    def _tags_are_texts(cls, value: Any) -> Any:
        if value and not all(value):
            raise ValueError("think_tags needs two non-empty texts, such as ('<think>','</think>')")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list_of_one(cls, value: Any) -> Any:
        given = stops_of(value)
        if given is not None and (
            isinstance(given, bytes | dict) or not hasattr(given, "__iter__")
        ):
            raise ValueError("give one text, or a list of texts, such as ['END']")
        return given

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, value: list[str] | None) -> list[str] | None:
        if value and not all(value):
            raise ValueError("an empty stop string would end every reply at once; leave it out")
        return value


def stops_of(value: Any) -> Any:
    """Stop strings as a list: a text alone is one of them, not a list of letters."""
    return [value] if isinstance(value, str) else value


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {name!r}; see RoutingSettings for the names"
    if "key" in name or item["type"] == "missing":
        return f"{name}: {item['msg']}"
    return f"{name}: {item['msg']} (got {item['input']!r})"
