"""What a routing policy is: what is known at a step's start in, author and reason out.

A policy has one method, :meth:`RoutingPolicy.decide`. It is asked before a step is written, and
says who writes it, or asks for a glimpse first: the small model's next tokens, looked at and not
yet used. Then it is asked again, with the glimpse.

Nothing here does I/O, reads a clock or draws a random number of its own, so the decisions of a
recorded conversation can be made again from its trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "NOTHING_SPENT",
    "AnswerBy",
    "Author",
    "CloseThinking",
    "Done",
    "Glimpse",
    "Glimpsed",
    "Place",
    "RoutingPolicy",
    "Spent",
    "StepStart",
    "Stop",
    "Write",
    "WriteAlone",
    "WrittenStep",
]

Author = Literal["small", "large"]
"""Which of the two models."""

AnswerBy = Literal["large", "small", "router"]
"""Who writes the answer; ``"router"``: its steps are routed as those of the reasoning are."""

Place = Literal["first", "after_tool", "later", "answer"]
"""Where a step stands: the first of a chain, the first after a tool's result, a later one, or in
the answer. H is distributed differently in each of them."""


class WrittenStep(Protocol):
    """A step that was written: what a policy may look back at."""

    @property
    def author(self) -> Author:
        """Who wrote it."""

    @property
    def place(self) -> Place:
        """Where it stands."""

    @property
    def entropy(self) -> float | None:
        """H in nats of its first token; ``None``: no glimpse was made."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def tokens(self) -> int:
        """Its tokens."""

    @property
    def sure_share(self) -> float | None:
        """Share of its tokens, 0 to 1, at whose place the likeliest token had more than 0.95.

        ``None``: its tokens came without probabilities, as the large model's do, and with the
        strategy ``"two_request"`` the small model's too.
        """


@dataclass(frozen=True, slots=True)
class Glimpsed:
    """What a glimpse showed.

    Attributes:
        entropies: H in nats at each glimpsed place. Fewer than were asked for, where the model
            ended its text; empty, where it ended without a token.
        probabilities: Of the likeliest tokens at the first place, highest first; ``None``:
            :class:`Glimpse` did not ask for them.
    """

    entropies: tuple[float, ...]
    probabilities: tuple[float, ...] | None = None

    @property
    def entropy(self) -> float | None:
        """H in nats at the first place; ``None``: there is no token to look at."""
        return self.entropies[0] if self.entropies else None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call has taken so far.

    Attributes:
        large_tokens: Tokens that the large model generated, dropped ones included.
        cost: In the currency of the prices; ``None``: no prices were given.
        seconds: Since the call began.
        token_seconds: Seconds a token takes, by model, where it has written some.
    """

    large_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    token_seconds: dict[Author, float] = field(default_factory=dict)


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class StepStart:
    """What is known before a step is written.

    Attributes:
        index: Its number, from 0.
        place: Where it stands.
        steps: The steps before it. When a step begins, it is asked already what would follow it:
            then the last one has no text yet, and the answer only decides how requests are made.
        glimpse: What the small model's next tokens showed; ``None``: nobody looked yet.
        is_answer: It belongs to the answer, not to the chain of thought.
        constrained: It has to follow a JSON schema or a tool call's syntax.
        decides_call: The small model began a tool call in the step before, and whoever writes
            this one decides whether it is made.
        only: The one model that can still write; ``None``: both can.
        only_reason: Why only that one, in words.
        can_close: The thinking may be closed here, and an answer follows.
        spent: What the call has taken so far.
    """

    index: int
    place: Place = "later"
    steps: Sequence[WrittenStep] = ()
    glimpse: Glimpsed | None = None
    is_answer: bool = False
    constrained: bool = False
    decides_call: bool = False
    only: Author | None = None
    only_reason: str = ""
    can_close: bool = False
    spent: Spent = NOTHING_SPENT


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Ask the small model for its next tokens, and decide when they are seen.

    Attributes:
        tokens: How many. More than one cost more where each is a request of its own.
        probabilities: Whether :attr:`Glimpsed.probabilities` are wanted. A model in this process
            computes them for those who ask.
    """

    tokens: int = 1
    probabilities: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Let ``author`` write the step.

    Attributes:
        author: Who.
        reason: Why, in words.
        signal: The number that decided; nats where it is an entropy.
        bound: The number that it was compared with.
        policy: The policy that decided; ``None``: the step was not a policy's to decide.
    """

    author: Author
    reason: str = ""
    signal: float | None = None
    bound: float | None = None
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class CloseThinking:
    """End the chain of thought here; the answer is next."""

    reason: Literal["max_cost", "deadline"]


@dataclass(frozen=True, slots=True)
class WriteAlone:
    """From here on ``author`` writes everything, because a budget is spent."""

    author: Author
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the reply where it is: nothing is left of a budget."""

    reason: Literal["max_cost", "deadline"]


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more is to be written."""


class RoutingPolicy(Protocol):
    """Decides who writes the next step; any object with this method is one.

    Two more things are used where a policy has them: ``name``, a text for traces (otherwise its
    class's), and ``learn(steps)``, which is called with the steps of a call (see
    :class:`WrittenStep`) once it is over. One object may serve many calls at once.
    """

    def decide(self, start: StepStart) -> Glimpse | Write | Any:
        """Who writes the next step.

        It may be asked more than once about one step, so what it returns must depend on
        ``start`` and on calls that are over, and on nothing else. It is also asked while the step
        before is still being written, the last of ``start.steps``: what it says then decides only
        whether a model is kept waiting for more, and an exception is not minded.

        Args:
            start: What is known. ``start.glimpse`` is ``None`` at first.

        Returns:
            :class:`Write`, or :class:`Glimpse` to be asked again with what it showed.
        """
