"""The routing settings, written once and shared by the core and every adapter."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_validator,
)

from glimp_integrations.calibrated_threshold import PREFIX, CalibratedShare, CalibratedThreshold
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.entropy import Estimator
from glimp_integrations.method.rule import name_of
from glimp_integrations.redact import public_model_string
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.records import ModelUsage, Usage
from glimp_integrations.unicode_text import check_text

__all__ = [
    "FURTHER_SAMPLING",
    "PAIR_VARIABLE",
    "PLACES",
    "KeepReasoning",
    "Price",
    "Prices",
    "RoutingSettings",
    "Strategy",
    "named_twice",
    "nested",
    "stops_of",
    "with_passwords",
]

Strategy = Literal["auto", "two_request", "fused", "overlap", "in_process"]
KeepReasoning = Literal["tool_loop", "never", "always"]

PLACES = {"small": "GLIMP_SMALL", "large": "GLIMP_LARGE"}
"""Environment variables that name the models."""
PAIR_VARIABLE = "GLIMP_PAIR"
"""The environment variable that names both at once."""

FURTHER_SAMPLING = ("top_k", "min_p", "presence_penalty", "repetition_penalty")
"""Settings of sampling that not every model has."""


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


class RoutingSettings(BaseModel):
    """Everything that decides how a question is routed. Defaults follow the paper (appendix A).

    ``small`` and ``large`` take a backend object or a model string such as
    ``"openai:Qwen/Qwen3-32B@http://gpu2:8000/v1"``, ``"ollama:qwen3:4b"``,
    ``"llamacpp:/models/small.gguf"`` or ``"hf:Qwen/Qwen3-0.6B"``; ``pair`` names both at once, such
    as ``"qwen3-0.6b+8b"``. With nothing named, the bundled models are used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    small: Any = Field(
        default_factory=lambda: os.environ.get(PLACES["small"]) or None,
        description="Small model: a backend or a model string; by default the environment's "
        "GLIMP_SMALL, else None. With neither model named, the bundled models are used.",
    )
    large: Any = Field(
        default_factory=lambda: os.environ.get(PLACES["large"]) or None,
        description="Large model, likewise; by default the environment's GLIMP_LARGE, else None.",
    )
    pair: str | None = Field(
        default_factory=lambda: os.environ.get(PAIR_VARIABLE) or None,
        description="Both models by the name of a pair that `glimp pull --list` shows, instead of "
        "'small' and 'large'; by default the environment's GLIMP_PAIR, else None. The sampling "
        "that the makers of its models advise becomes the default.",
    )
    threshold: float = Field(
        default=1.0,
        description="In nats. H > threshold: the large model writes the step. inf: the small model "
        "writes all steps; below 0: the large model does; neither makes a glimpse. "
        "'calibrated:FILE': the threshold that `glimp calibrate` stored.",
    )
    large_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Instead of a threshold: the share of steps that the large model is to write, "
        "between 0 and 1. The threshold follows from H of the steps so far, apart for the first "
        "step, later ones, those after a tool's result, and the answer. 'calibrated:FILE': the "
        "share and the first values that `glimp calibrate` stored.",
    )
    policy: Any = Field(
        default=None,
        description="Instead of a threshold: an object with a method decide(StepStart), which says "
        "who writes the next step.",
    )
    first_large_steps: int = Field(
        default=0,
        ge=0,
        description="So many steps at the start of a chain of thought are the large model's.",
    )
    route: Literal["always", "when_it_pays"] = Field(
        default="when_it_pays",
        description="'when_it_pays': the router keeps account of what routed calls of a kind "
        "take, and lets the large model work alone where it would take less, in money if prices "
        "are given and in seconds if not. 'always': every call is routed, as in the paper.",
    )
    max_large_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens that the large model may generate in a call; then the small one "
        "writes on. A quarter is kept for the answer.",
    )
    max_cost: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Most that a call may cost, in the currency of the prices. Near it the small "
        "model writes on, then the thinking is closed and answered.",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Most seconds that a call may take. Near it the small model writes on, then "
        "the thinking is closed and answered; at it the reply ends.",
    )
    entropy_estimator: Estimator | Literal["auto"] = Field(
        default="auto",
        description="How H is computed: 'topk_renorm' or 'topk_other' from the likeliest tokens, "
        "'full' from the whole vocabulary (only small models in this process). 'auto': "
        "full where possible, else topk_renorm. A threshold belongs to its estimator.",
    )
    glimpse: Literal["first_token", "skip_format"] = Field(
        default="first_token",
        description="Which token's entropy decides: the step's first, as in the paper, or with "
        "'skip_format' the first after formatting (bullets, list numbers, white space, "
        "'**', '\\['). A threshold belongs to its glimpse.",
    )
    random_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Random baseline, for comparisons: the large model writes a glimpsed step with "
        "this probability, whatever H is; H is still measured. Seeded per question: the"
        " same question and seed give the same choices.",
    )
    step_delimiter: str = Field(
        default="\n\n", min_length=1, description="Text that ends a step and stays in it."
    )
    max_step_tokens: int = Field(
        default=512,
        ge=1,
        description="Most tokens in a step; a step cut here gets no delimiter added.",
    )
    max_thinking_tokens: int = Field(
        default=8192, ge=1, description="Most tokens of kept reasoning, both models together."
    )
    max_tokens: int = Field(
        default=2048,
        ge=1,
        description="Most tokens of the answer. Where a model does not think in tags, the whole "
        "reply is the chain, and this limits the reply.",
    )
    max_completion_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Most kept tokens of reasoning and answer together, as in OpenAI's API; None: "
        "only the two limits above. A quarter is kept for the answer, if it may take that much.",
    )
    answer_by: Literal["large", "small", "router"] = Field(
        default="large",
        description="Who writes after the end of thinking; 'router': step by step, decided by H as "
        "before.",
    )
    answer_marker: str | None = Field(
        default=None,
        min_length=1,
        description="For models without think tags: the text after which the answer's author takes "
        "over. It belongs neither to the reasoning nor to the answer.",
    )
    untagged_answer: Literal["last_step", "whole"] = Field(
        default="last_step",
        description="For models without think tags, if no marker was written: the answer is the "
        "chain's last step and the rest is reasoning, or with 'whole' the whole reply.",
    )
    think_tags: tuple[str, str] | Literal[False] | None = Field(
        default=None,
        description="(open, close). None: read from the chat template; False: the models do not "
        "think in tags.",
    )
    temperature: float = Field(
        default=0.6, ge=0, allow_inf_nan=False, description="Sampling temperature; 0: greedy."
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="Sample from so many of the likeliest tokens. None: from all, or (a model of "
        "this process) as many as its generation config says.",
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Sample from tokens at least so likely, relative to the likeliest. None: no "
        "such limit, or as above.",
    )
    presence_penalty: float | None = Field(
        default=None,
        ge=-2,
        le=2,
        description="Taken off the logit of each token that was written already; against loops. "
        "None: 0.",
    )
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Divides the logit of each token that is in the text already (multiplies it "
        "where it is negative); 1 does nothing. None: 1, or as above.",
    )
    seed: int | None = Field(
        default=None,
        description="Sampling seed; each request of a call uses the next number. None: random.",
    )
    stop: list[StrictStr] | None = Field(
        default=None,
        description="Strings that end the visible reply and are not part of it; a single text may "
        "be given alone.",
    )
    strategy: Strategy = Field(
        default="auto",
        description="How requests are made. Costs or saves time and never changes decisions.",
    )
    warm_prefix_cache: bool = Field(
        default=False,
        description="The large model reads what the small one wrote at the end of every step, so "
        "that it begins its own steps sooner. Costs a request and a token per step; for"
        " models on separate devices and servers that cache prefixes.",
    )
    draft: Literal["small", "prompt_lookup"] | None = Field(
        default=None,
        description="Speculative decoding of what the large model writes: tokens proposed by the "
        "small model, or looked up in the text so far. Both models run in this process.",
    )
    show_schema: bool = Field(
        default=True,
        description="Where the answer has to follow a JSON schema, the schema is added to the "
        "conversation with the request to think first. False: the conversation stays as"
        " it is and only the grammar knows the schema.",
    )
    keep_reasoning: KeepReasoning = Field(
        default="tool_loop",
        description="Which reasoning of earlier assistant messages the models read again, where "
        "their chat templates have a place for it: 'tool_loop': of those after the last"
        " user message; 'always': of all; 'never': of none. It is never part of the "
        "reply.",
    )
    on_backend_error: Literal["raise", "small", "large"] = Field(
        default="raise",
        description="What to do when a model fails for good: raise the error, or continue with the "
        "named model alone.",
    )
    timeout: float | None = Field(
        default=120.0,
        gt=0,
        description="Most seconds to wait for the next token of an endpoint, or for a small reply; "
        "None: no limit.",
    )
    max_retries: int = Field(default=2, ge=0, description="Attempts after a failed request.")
    prices: Prices | Literal["auto"] | None = Field(
        default=None,
        description="Prices of both models, for costs in the trace. 'auto': those that hosted "
        "services charge, where the package genai-prices knows them.",
    )
    api_key: SecretStr | None = Field(
        default_factory=lambda: (
            SecretStr(key) if (key := os.environ.get("GLIMP_API_KEY")) else None
        ),
        exclude=True,
        description="Key for endpoints named by a model string; by default the environment's "
        "GLIMP_API_KEY. Hosted services read their own variable first.",
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

    def __getstate__(self) -> dict[Any, Any]:
        # A pickle is stored, or sent to another process, so it holds no secrets. Whoever loads it
        # takes them from the environment. Copies do not come by here.
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name != "api_key"}
        for role in PLACES:
            if isinstance(model := fields.get(role), str):
                fields[role] = public_model_string(model)
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        key = type(self).model_fields["api_key"].get_default(call_default_factory=True)
        fields = {**with_passwords(state["__dict__"]), "api_key": key}
        super().__setstate__({**state, "__dict__": fields})

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

    @field_validator("large_share", mode="wrap")
    @classmethod
    def _calibrated_shares_are_read(
        cls, value: Any, handler: ValidatorFunctionWrapHandler
    ) -> float | None:
        if isinstance(value, CalibratedShare):
            return value
        if isinstance(value, str) and value.startswith(PREFIX):
            return CalibratedShare.read(value)
        number: float | None = handler(value)
        return number

    @field_validator("prices", mode="before")
    @classmethod
    def _prices_are_known_or_looked_up(cls, value: Any) -> Any:
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

    @field_validator("policy")
    @classmethod
    def _policy_decides(cls, value: Any) -> Any:
        if value is not None and not callable(getattr(value, "decide", None)):
            raise ValueError("a policy is an object with a method decide(start)")
        if isinstance(value, type):
            raise ValueError(f"give an object, {value.__name__}(...), not the class")
        return value

    @field_serializer("policy")
    def _policy_by_name(self, value: Any) -> str | None:
        return None if value is None else name_of(value)

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        given = [
            f"{name}={name_of(value) if name == 'policy' else value}"
            for name in ("threshold", "large_share", "policy")
            if name in self.model_fields_set and (value := getattr(self, name)) is not None
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each decides who writes a step; give one")
        if self.max_cost is not None and self.prices is None:
            raise ConfigError(
                f"max_cost={self.max_cost:g} needs prices of both models, such as prices="
                "{'small': {'input': 0.1, 'output': 0.3}, 'large': {'input': 1, 'output': 3}} "
                "(per million tokens)"
            )
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Settle who names the models, and take over what is advised for them.

        Raises:
            ConfigError: Two names of one rank, or a pair that does not exist.
        """
        super().model_post_init(context)
        # Here and not in a validator, which would come after the adapters have made their router.
        self._let_one_name_the_models()
        if self.pair is not None:
            self._take_advice(self.pair)

    def _let_one_name_the_models(self) -> None:
        """An argument comes before the environment; two names of one rank are a mistake."""
        fields, given = self.__dict__, self.model_fields_set
        named = [role for role in PLACES if fields[role] is not None]
        if self.pair is None or not named:
            return
        if "pair" in given:
            if both := [role for role in named if role in given]:
                raise named_twice(self.pair, both)
            fields.update(small=None, large=None)
        elif given & set(named):
            fields.update(pair=None)
        else:
            variables = " and ".join(PLACES[role] for role in named)
            raise ConfigError(
                f"the environment names models twice: {PAIR_VARIABLE} is {self.pair!r}, and "
                f"{variables} is set as well; unset one, or name the models in the call"
            )

    def _take_advice(self, name: str) -> None:
        """Make what the makers of a pair advise the default of what nobody said."""
        from glimp_integrations.weights.pairs import find_pair

        given = self.model_fields_set
        pair = find_pair(name, "pair" if "pair" in given else PAIR_VARIABLE)
        # Not among the fields that were set, so that they are defaults in every other respect.
        self.__dict__.update(
            (setting, value)
            for setting, value in pair.sampling.items()
            if setting in type(self).model_fields and setting not in given
        )

    @property
    def further_sampling(self) -> dict[str, Any]:
        """Those of :data:`FURTHER_SAMPLING` that are set."""
        return {
            name: value for name in FURTHER_SAMPLING if (value := getattr(self, name)) is not None
        }

    @property
    def known_prices(self) -> Prices | None:
        """The prices; ``None`` without any, and while they are to be looked up."""
        return self.prices if isinstance(self.prices, Prices) else None

    @property
    def routes(self) -> bool:
        """Whether steps are glimpsed at and decided on."""
        if self.large_share is not None or self.policy is not None:
            return True
        return 0 <= self.threshold < math.inf

    def changed(self, changes: Mapping[str, Any]) -> RoutingSettings:
        """These settings with some changed, for one call. What decides replaces what decided.

        Raises:
            ConfigError: As for new settings.
        """
        own = RoutingSettings.model_fields
        deciding = {"threshold", "large_share", "policy"}
        replaced = deciding if deciding & set(changes) else set()
        kept = {
            name: getattr(self, name)
            for name in own
            if name not in replaced
            and (name in self.model_fields_set or own[name].default_factory is not None)
        }
        return RoutingSettings(**kept | dict(changes))

    @model_validator(mode="after")
    def _random_share_needs_glimpses(self) -> Self:
        if self.random_share is not None and not self.routes:
            raise ConfigError(
                "random_share decides at random where the threshold would decide, and with "
                f"threshold {self.threshold} nothing is decided: leave one of them out"
            )
        return self

    @field_validator("stop", "think_tags", "step_delimiter", "answer_marker", mode="before")
    @classmethod
    def _no_half_characters(cls, value: Any, info: ValidationInfo) -> Any:
        check_text(f"the setting {info.field_name}", value)
        return value

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


def stops_of(value: Any) -> Any:
    """Stop strings as a list: a text alone is one of them, not a list of letters."""
    return [value] if isinstance(value, str) else value


def nested(value: Any) -> str:
    """What to do with an argument such as ``extra_body={"top_k": 20}``; empty for any other."""
    inner = value if isinstance(value, Mapping) else {}
    own = [str(name) for name in inner if name in RoutingSettings.model_fields]
    if not own:
        return ""
    given = ", ".join(f"{name}=..." for name in own)
    return (
        f" (what is in it is a setting of its own here: give {given}; other fields go to the "
        "backend: OpenAIBackend(..., extra_body={...}))"
    )


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nested(item['input'])}; see RoutingSettings for the names"
    if "key" in name or item["type"] == "missing":
        return f"{name}: {item['msg']}"
    return f"{name}: {item['msg']} (got {item['input']!r})"
