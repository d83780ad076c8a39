"""What happened: one record a step, totals, usage. Saved as JSON, loaded back, shown in colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from glimp_integrations.strict_json import plain

if TYPE_CHECKING:
    from rich.console import Console, Group

__all__ = [
    "CallProposal",
    "InvalidToolCall",
    "ModelUsage",
    "RoutedAnswer",
    "StepRecord",
    "ToolCall",
    "Trace",
    "Usage",
]

Author = Literal["small", "large"]
FORMAT = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_serializer(mode="wrap", when_used="json")
    def _as_strict_json(self, handler: SerializerFunctionWrapHandler) -> Any:
        return plain(handler(self))


class StepRecord(_Record):
    """One step of the chain, or the answer."""

    index: int
    kind: Literal["reasoning", "answer"]
    text: str = Field(description="Exact text, delimiter included.")
    author: Author
    entropy: float | None = Field(description="H in nats; None: no glimpse was made.")
    estimator: str
    threshold: float | str = Field(description="Nats; 'inf' or '-inf' as text, for JSON.")
    tokens: int = Field(description="Kept tokens.")
    discarded_tokens: int = Field(description="Generated for this step and thrown away.")
    requests: int
    prefilled_tokens: int | None = Field(description="Prompt tokens computed, where told.")
    cached_tokens: int | None = Field(description="Prompt tokens from the cache, where told.")
    first_token_seconds: float | None = Field(
        description="From the step's beginning, its glimpse included; None: the model failed "
        "before it."
    )
    seconds: float
    end: str | None = Field(description="Why the step ended.")


class CallProposal(_Record):
    """A tool call begun in a chain without think tags: who proposed it, who decided.

    A call is a part of the answer. Where the small model begins one and the large model writes
    the answer, what the small one began is dropped, and the large one writes that step freely: it
    calls, or says something else.
    """

    step: int = Field(description="Index of the step in which the call was begun.")
    proposed_by: Author
    decided_in: int = Field(description="Index of the step whose author decided; often the same.")
    decided_by: Author
    called: bool = Field(description="Whether the one who decided made a call.")
    trigger: str = Field(description="What the call began with.")


class ModelUsage(_Record):
    """Tokens of one model, summed over all its requests, cancelled ones included."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = Field(
        default=False, description="Some request reported nothing; its tokens were counted here."
    )


class Usage(_Record):
    """Tokens by model. ``reasoning_tokens`` are the kept tokens of the chain of thought."""

    small: ModelUsage = ModelUsage()
    large: ModelUsage = ModelUsage()
    reasoning_tokens: int = 0

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


class Trace(_Record):
    """The story of one answer.

    Costs are in the currency of the given prices; ``None`` without prices. The predicted cost
    of the large model alone assumes it had written the same text in one request.
    """

    format: int = FORMAT
    small_model: str
    large_model: str
    strategy: str
    strategy_reason: str
    glimpse: str = Field(default="first_token", description="Which token H was taken from.")
    random_share: float | None = Field(
        default=None, description="Set: the large model's steps were drawn at random."
    )
    steps: list[StepRecord] = []
    call_proposals: list[CallProposal] = Field(
        default=[], description="Tool calls begun in a chain without think tags, in order."
    )
    stop_reason: str | None = Field(default=None, description="Why the chain ended.")
    answer_stop: str | None = Field(default=None, description="Why a separate answer ended.")
    requests: int = 0
    seconds: float = 0.0
    prompt_tokens: int | None = Field(default=None, description="Of the large model's prompt.")
    errors: list[str] = Field(default=[], description="Failures that did not end the answer.")
    cost: float | None = None
    large_alone_cost: float | None = None

    def tokens(self, author: Author) -> int:
        """Kept tokens written by one model."""
        return sum(step.tokens for step in self.steps if step.author == author)

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
        """The share of glimpsed steps that went to the large model (the intervention rate)."""
        glimpsed = [step for step in self.steps if step.entropy is not None]
        return sum(step.author == "large" for step in glimpsed) / len(glimpsed) if glimpsed else 0.0

    def to_json(self) -> str:
        """The whole trace as JSON; :meth:`from_json` reads it back."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a trace. Fields an older version did not write get their defaults.

        Raises:
            ConfigError: It is none, or comes from a newer version, or lacks a field without which
                nothing can be shown (a step's text, author or threshold).
        """
        from glimp_integrations.trace.files import decoded, parse

        return parse(decoded(text), cls, FORMAT)

    def save(self, path: str | Path) -> None:
        """Write the trace to a file as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_html(self, title: str = "GlimpRouter trace") -> str:
        """One self-contained HTML page: who wrote what, H as bars, totals.

        Args:
            title: Heading of the page, such as the question.
        """
        from glimp_integrations.trace.html import page

        return page(self, title)

    def _repr_html_(self) -> str:
        from glimp_integrations.trace.html import fragment

        return fragment(self)

    def show(self, console: Console | None = None) -> None:
        """Print the trace in colour: who wrote what, and how unsure the small model was.

        Args:
            console: A rich console; standard output by default.
        """
        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        console.print(self)

    def __rich__(self) -> Group:
        from glimp_integrations.trace.terminal import rich_trace

        return rich_trace(self)

    def __str__(self) -> str:
        from glimp_integrations.trace.terminal import plain

        return plain(self)


class ToolCall(_Record):
    """A tool the answer asks to be called."""

    id: str
    name: str
    arguments: dict[str, Any]


class InvalidToolCall(_Record):
    """Text that was meant as a tool call."""

    index: int = Field(description="Number of the call in the reply, from 0.")
    id: str
    name: str | None
    text: str = Field(description="What was written as its arguments, or all of it.")
    error: str


class RoutedAnswer(_Record):
    """The result of a call. The answer is without its tool calls."""

    reasoning: str
    answer: str
    trace: Trace
    usage: Usage
    tool_calls: list[ToolCall] = []
    invalid_tool_calls: list[InvalidToolCall] = []

    def _repr_html_(self) -> str:
        from glimp_integrations.trace.html import answer_fragment

        return answer_fragment(self)

    def __str__(self) -> str:
        return self.answer
