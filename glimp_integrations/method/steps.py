"""What a chain consists of: steps, why they ended, and calls that were proposed in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimp_integrations.method.rule import Author

__all__ = ["Phase", "Proposal", "Step", "StepEnd", "StepUpdate", "StopReason"]

Phase = Literal["thinking", "chain", "answer", "done"]
"""Thinking in tags; a chain of thought without tags; the answer; nothing more."""

StopReason = Literal[
    "think_end", "eos", "budget", "repeated_step", "context_full", "stop", "tool_call", "json"
]
"""Why the reasoning, or the answer, ended."""

StepEnd = Literal[
    "delimiter",
    "think_end",
    "eos",
    "length",
    "stop",
    "context_full",
    "error",
    "tool_call",
    "json",
    "call_proposed",
]
"""Why a step ended."""


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
        tokens: Kept tokens.
        end: Why it ended; ``None`` while it is being written.
    """

    index: int
    author: Author
    entropy: float | None
    is_answer: bool
    text: str = ""
    tokens: int = 0
    end: StepEnd | None = None


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


@dataclass(frozen=True, slots=True)
class StepUpdate:
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
