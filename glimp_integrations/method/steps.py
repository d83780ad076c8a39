"""What a chain consists of: steps, why they ended, and calls that were proposed in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from glimp_integrations.method.policy import Author, Place
from glimp_integrations.method.tokens import Token

__all__ = ["SURE", "Phase", "Proposal", "Step", "StepEnd", "StepUpdate", "StopReason"]

Phase = Literal["thinking", "chain", "answer", "done"]
"""Thinking in tags; a chain of thought without tags; the answer; nothing more."""

StopReason = Literal[
    "think_end",
    "eos",
    "budget",
    "repeated_step",
    "context_full",
    "stop",
    "tool_call",
    "json",
    "max_cost",
    "deadline",
]
"""Why the reasoning, or the answer, ended."""

StepEnd = Literal[
    "delimiter",
    "think_start",
    "think_end",
    "eos",
    "length",
    "stop",
    "context_full",
    "error",
    "tool_call",
    "json",
    "call_proposed",
    "max_cost",
    "deadline",
]
"""Why a step ended."""


SURE = math.log(0.95)
"""Natural logarithm of the probability above which a token is sure."""


@dataclass(slots=True)
class Step:
    """A step being written, and after its end what it came to.

    Attributes:
        index: Its number, from 0.
        author: Who writes it.
        entropy: H in nats at the step's start; ``None`` when no glimpse was made.
        is_answer: It belongs to the answer.
        text: The exact text. The delimiter is included, the think end tag is not. A constraint's
            prefix and suffix, which no model wrote, are included.
        place: Where it stands.
        cap: Tokens that it may take; ``None``: what the settings allow.
        tokens: Kept tokens.
        measured: Its tokens of which it is known how sure they were.
        sure: Those at whose place the likeliest token had a probability above 0.95.
        end: Why it ended; ``None`` while it is being written.
    """

    index: int
    author: Author
    entropy: float | None
    is_answer: bool
    text: str = ""
    place: Place = "later"
    cap: int | None = None
    tokens: int = 0
    measured: int = 0
    sure: int = 0
    end: StepEnd | None = None

    @property
    def sure_share(self) -> float | None:
        """Share of sure tokens, 0 to 1; ``None``: it is known of fewer than half of them.

        After a glimpse that was a request of its own, only the step's first token is known.
        """
        return self.sure / self.measured if 2 * self.measured > self.tokens else None

    def measure(self, token: Token) -> None:
        """Count how sure a token was, if it tells."""
        sure = token.logprobs[0] > SURE if token.logprobs else token.sure
        if sure is not None:
            self.measured += 1
            self.sure += sure


@dataclass(frozen=True, slots=True)
class Proposal:
    """A call that was begun in a chain without tags; whoever writes the answer decides on it.

    Attributes:
        step: Number of the step in which it was begun.
        decided_in: Number of the step whose author decides.
        trigger: The text that began it.
    """

    step: int
    decided_in: int
    trigger: str


class StepUpdate(NamedTuple):
    """What a token changed.

    Attributes:
        shown: Text to show now.
        step_over: The step ended.
        truncated: The model wrote text after the step's end, and it was dropped.
        discarded: Tokens that had counted as the step's and are dropped after all.
    """

    shown: str
    step_over: bool
    truncated: bool
    discarded: int = 0
