"""Who writes the next step: the rule of the paper (arXiv 2601.05110, section 3).

At the start of a step the small model *glimpses* the first token. H is the entropy of that
token's distribution, in nats. Above the threshold the large model writes the step; otherwise the
small model does. Some steps need no glimpse, because nothing it could show would change who
writes them.

Nothing here does I/O, reads a clock or draws a random number of its own, so the decisions of a
recorded conversation can be made again from its trace. To route by another signal, write another
class with these two methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Action", "AnswerBy", "Author", "Done", "Glimpse", "Rule", "StepStart", "Write"]

Author = Literal["small", "large"]
"""Which of the two models."""

AnswerBy = Literal["large", "small", "router"]
"""Who writes the answer; ``"router"``: its steps are routed as those of the reasoning are."""


@dataclass(frozen=True, slots=True)
class StepStart:
    """What is known before a step is written.

    Attributes:
        index: Its number, from 0.
        is_answer: It belongs to the answer, not to the chain of thought.
        constrained: It has to follow a JSON schema or a tool call's syntax.
        decides_call: The small model began a tool call in the step before, and whoever writes
            this one decides whether it is made.
        only: The one model that can still write, because the other failed; ``None``: both can.
    """

    index: int
    is_answer: bool = False
    constrained: bool = False
    decides_call: bool = False
    only: Author | None = None


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Ask the small model for one token and decide on its entropy."""


@dataclass(frozen=True, slots=True)
class Write:
    """Let ``author`` write the step, without a glimpse."""

    author: Author


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more is to be written."""


Action = Glimpse | Write | Done


@dataclass(frozen=True, slots=True)
class Rule:
    """The entropy threshold.

    Args:
        threshold: In nats. ``inf``: the small model writes every step; below 0: the large one.
        answer_by: Who writes the answer.
        random_share: The random baseline: instead of H, a random number decides, and this share
            of steps goes to the large model. 0 to 1; ``None``: H decides.
        random_draw: Returns random numbers from 0 to 1, for the baseline.
    """

    threshold: float = 1.0
    answer_by: AnswerBy = "large"
    random_share: float | None = None
    random_draw: Callable[[], float] | None = None

    def action(self, start: StepStart | None) -> Action:
        """What has to happen before the next step is written.

        Args:
            start: What is known of that step; ``None``: there is none, the reply is complete.
        """
        if start is None:
            return Done()
        author = self._author_without_glimpse(start)
        return Glimpse() if author is None else Write(author)

    def decide(self, entropy: float | None) -> Author:
        """The decision of the paper: ``H > threshold`` is the large model's step.

        Args:
            entropy: H in nats; ``None``: the small model ended its text without showing a
                distribution, so there is no step for the large model to improve.
        """
        if entropy is None:
            return "small"
        if self.random_share is not None and self.random_draw is not None:
            return "large" if self.random_draw() < self.random_share else "small"
        return "large" if entropy > self.threshold else "small"

    def _author_without_glimpse(self, start: StepStart) -> Author | None:
        if start.only is not None:
            return start.only
        if start.is_answer and self.answer_by != "router":
            return self.answer_by
        if start.constrained or start.decides_call:
            return "large"
        if self.threshold == math.inf:
            return "small"
        return "large" if self.threshold < 0 else None
