"""Every routing setting by itself: its type, default and bounds, what it means, and its checks.

What concerns several settings together is in :mod:`glimp_integrations.settings.routing`.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictStr, field_validator

from glimp_integrations.method.entropy import Estimator
from glimp_integrations.method.sampling import LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY
from glimp_integrations.settings import checks
from glimp_integrations.settings.model_names import PAIR_VARIABLE, PLACES
from glimp_integrations.settings.prices import Prices, prices_or_auto

__all__ = ["KeepReasoning", "RoutingFields", "Strategy"]

Strategy = Literal["auto", "two_request", "fused", "overlap", "in_process"]
KeepReasoning = Literal["tool_loop", "never", "always"]


class RoutingFields(BaseModel):
    """The fields of :class:`~glimp_integrations.settings.RoutingSettings`, the class to use.

    A field's order here is its order everywhere: in tables, in schemas and in stored settings.
    """

    # Never built itself: that would take as long as building the class that is used.
    model_config = ConfigDict(defer_build=True)

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
        ge=LEAST_REPETITION_PENALTY,
        le=MOST_REPETITION_PENALTY,
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

    _threshold_from_file = field_validator("threshold", mode="wrap")(checks.calibrated_threshold)
    _threshold_is_a_number = field_validator("threshold")(checks.not_nan)
    _share_from_file = field_validator("large_share", mode="wrap")(checks.calibrated_share)
    _prices_are_known_or_looked_up = field_validator("prices", mode="before")(prices_or_auto)
    _policy_decides = field_validator("policy")(checks.policy_object)
    # Of the checks before a field's own, the last one here comes first.
    _no_half_characters = field_validator(
        "stop", "think_tags", "step_delimiter", "answer_marker", mode="before"
    )(checks.without_half_characters)
    _tags_are_texts = field_validator("think_tags")(checks.two_tags)
    _one_stop_is_a_list_of_one = field_validator("stop", mode="before")(checks.list_of_stops)
    _stops_are_texts = field_validator("stop")(checks.stops_with_text)
