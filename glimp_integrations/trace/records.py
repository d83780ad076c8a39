"""What a trace records: data and sums over them, nothing that shows or reads files.

Every record is frozen and is written as strict JSON: infinities are text, because JSON has no such
numbers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from glimp_integrations.method.policy import Author, Place
from glimp_integrations.strict_json import plain

__all__ = [
    "FORMAT",
    "CallProposal",
    "InvalidToolCall",
    "ModelUsage",
    "Record",
    "StepRecord",
    "ToolCall",
    "TraceData",
    "Usage",
]

FORMAT = 1
"""The number that new traces carry; readers refuse greater ones."""


class Record(BaseModel):
    """Base of everything that a call records."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_serializer(mode="wrap", when_used="json")
    def _as_strict_json(self, handler: SerializerFunctionWrapHandler) -> Any:
        return plain(handler(self))


class StepRecord(Record):
    """One step of the chain of thought, or the answer."""

    index: int = Field(description="Number of the step, from 0.")
    kind: Literal["reasoning", "answer"] = Field(
        description="What the text belongs to. Final once the call is over."
    )
    text: str = Field(description="Exact text, delimiter included.")
    author: Author = Field(description="The model whose text was kept.")
    place: Place = Field(
        default="later",
        description="Where the step stands: 'first' of a chain, 'after_tool' (the first after a "
        "tool's result), 'later' in it, or in the 'answer'.",
    )
    entropy: float | None = Field(
        description="Entropy H of the glimpsed token, in nats; None: no glimpse was made."
    )
    estimator: str = Field(
        description="How H was computed, such as 'topk_renorm@20' (the 20 most likely tokens)."
    )
    policy: str | None = Field(
        default=None,
        description="The policy that decided, such as 'threshold'; None: the step was not a "
        "policy's to decide.",
    )
    signal: float | str | None = Field(
        default=None, description="The number that decided; H in nats for policies that go by H."
    )
    bound: float | str | None = Field(
        default=None, description="The number that the signal was compared with."
    )
    threshold: float | str | None = Field(
        description="Nats; the large model writes where H is greater. 'inf' or '-inf' as text, for "
        "JSON; None: the policy does not go by H."
    )
    reason: str = Field(default="", description="Why this model wrote the step, in words.")
    tokens: int = Field(description="Kept tokens.")
    sure_share: float | None = Field(
        default=None,
        description="Share of its tokens, 0 to 1, at whose place the likeliest token had more than "
        "0.95; None: fewer than half came with log-probabilities.",
    )
    discarded_tokens: int = Field(description="Tokens generated for this step and thrown away.")
    requests: int = Field(description="Requests to both models for this step.")
    prefilled_tokens: int | None = Field(
        description="Prompt tokens that were computed; None: no backend reported them."
    )
    cached_tokens: int | None = Field(
        description="Prompt tokens read from a cache; None: no backend reported them."
    )
    first_token_seconds: float | None = Field(
        description="Seconds from the step's start, its glimpse included, to its first token; "
        "None: the model failed before it."
    )
    seconds: float = Field(description="Duration of the step in seconds, its glimpse included.")
    end: str | None = Field(description="Why the step ended, such as 'delimiter'.")

    @property
    def decided(self) -> bool:
        """Whether a policy chose the author, and not another setting."""
        return self.entropy is not None or self.policy is not None

    @property
    def writing(self) -> tuple[float, int]:
        """Seconds from its first token to its end, and the tokens written in them.

        What came before the first token is waiting and reading. ``(0.0, 0)`` where the step shows
        no speed of writing: it has one token, or its author failed before any.
        """
        if self.first_token_seconds is None or self.tokens < 2:
            return 0.0, 0
        return self.seconds - self.first_token_seconds, self.tokens - 1

    @property
    def level(self) -> float:
        """The threshold as a number of nats; NaN where there was none."""
        return math.nan if self.threshold is None else float(self.threshold)


class CallProposal(Record):
    """A tool call begun in a chain without think tags: who proposed it, who decided.

    A call is a part of the answer. Where the small model begins one and the large model writes
    the answer, the text of the small model's call is dropped, and the large model writes that step
    freely: it makes a call, or continues without one.
    """

    step: int = Field(description="Index of the step in which the call was begun.")
    proposed_by: Author = Field(description="The model that began the call.")
    decided_in: int = Field(description="Index of the step whose author decided; often the same.")
    decided_by: Author = Field(description="The model that decided whether to make a call.")
    called: bool = Field(description="Whether the deciding model made a call.")
    trigger: str = Field(description="The text that the call began with.")


class ModelUsage(Record):
    """Tokens of one model, summed over all its requests, cancelled ones included."""

    requests: int = Field(default=0, description="Requests to this model.")
    input_tokens: int = Field(
        default=0, description="Prompt tokens of all requests, cached ones included."
    )
    cached_tokens: int = Field(default=0, description="Prompt tokens read from a cache.")
    output_tokens: int = Field(
        default=0, description="Generated tokens, glimpsed and discarded ones included."
    )
    estimated: bool = Field(
        default=False,
        description="Whether a request came without a token count: its generated tokens were "
        "counted here, its prompt tokens are missing.",
    )


class Usage(Record):
    """Tokens by model."""

    small: ModelUsage = Field(default=ModelUsage(), description="Tokens of the small model.")
    large: ModelUsage = Field(default=ModelUsage(), description="Tokens of the large model.")
    reasoning_tokens: int = Field(default=0, description="Kept tokens of the chain of thought.")

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of every request, what a provider bills."""
        return self.small.input_tokens + self.large.input_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens read from caches."""
        return self.small.cached_tokens + self.large.cached_tokens

    @property
    def output_tokens(self) -> int:
        """Generated tokens, glimpsed and discarded ones included."""
        return self.small.output_tokens + self.large.output_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens


class ToolCall(Record):
    """A tool call of the answer."""

    id: str = Field(description="Identifies the call within its conversation.")
    name: str = Field(description="Name of the tool.")
    arguments: dict[str, Any] = Field(description="Arguments, by parameter name.")


class InvalidToolCall(Record):
    """Text that was meant as a tool call and cannot be read as one."""

    index: int = Field(description="Number of the call in the reply, from 0.")
    id: str = Field(description="Identifies the call within its conversation.")
    name: str | None = Field(description="Name of the tool; None: none can be read.")
    text: str = Field(
        description="The text written as its arguments; the whole call where it has no name."
    )
    error: str = Field(description="Why it is not a tool call.")


class TraceData(Record):
    """The data of a trace, and sums over its steps. Everything that shows a trace takes this."""

    format: int = Field(default=FORMAT, description="Number of the format, for readers.")
    small_model: str = Field(description="Name of the small model.")
    large_model: str = Field(description="Name of the large model.")
    strategy: str = Field(description="How models were asked: 'fused', for instance.")
    strategy_reason: str = Field(description="Why this strategy was used.")
    glimpse: str = Field(default="first_token", description="Which token H was taken from.")
    random_share: float | None = Field(
        default=None,
        description="Probability of the large model where its steps were drawn at random; None: H "
        "decided.",
    )
    steps: list[StepRecord] = Field(default=[], description="The steps, in order.")
    call_proposals: list[CallProposal] = Field(
        default=[], description="Tool calls begun in a chain without think tags, in order."
    )
    stop_reason: str | None = Field(default=None, description="Why the chain ended.")
    answer_stop: str | None = Field(default=None, description="Why a separate answer ended.")
    requests: int = Field(default=0, description="Requests to both models.")
    seconds: float = Field(default=0.0, description="Duration of the call in seconds.")
    prompt_tokens: int | None = Field(
        default=None, description="Tokens of the large model's prompt; None: not known."
    )
    errors: list[str] = Field(default=[], description="Failures that did not end the answer.")
    route: str = Field(
        default="routed",
        description="'routed', or 'large_alone': the large model wrote everything, because "
        "routing does not pay for calls of this kind, or to find out whether it does.",
    )
    route_reason: str = Field(default="", description="Why, in words.")
    limits: list[str] = Field(
        default=[], description="Budgets that changed what was written, in order, in words."
    )
    cost: float | None = Field(
        default=None, description="Cost in the currency of the prices; None: no prices were given."
    )
    large_alone_cost: float | None = Field(
        default=None,
        description="Predicted cost of the large model alone, had it written the same text in one "
        "request; None: no prices were given.",
    )

    def tokens(self, author: Author) -> int:
        """Kept tokens written by one model."""
        return sum(step.tokens for step in self.steps if step.author == author)

    def writing(self, author: Author) -> tuple[float, int]:
        """The sums of :attr:`StepRecord.writing` over the steps of one model."""
        parts = [step.writing for step in self.steps if step.author == author]
        return sum(seconds for seconds, _ in parts), sum(tokens for _, tokens in parts)

    @property
    def discarded_tokens(self) -> int:
        """Tokens generated and thrown away."""
        return sum(step.discarded_tokens for step in self.steps)

    @property
    def large_share(self) -> float:
        """The large model's share of all kept tokens, 0 to 1."""
        total = sum(step.tokens for step in self.steps)
        return self.tokens("large") / total if total else 0.0

    @property
    def large_step_share(self) -> float:
        """The share of steps that a policy gave to the large model (the intervention rate)."""
        decided = [step for step in self.steps if step.decided]
        return sum(step.author == "large" for step in decided) / len(decided) if decided else 0.0
