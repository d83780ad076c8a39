"""Who writes the next step: the rule of the paper (arXiv 2601.05110, section 3).

At the start of a step the small model *glimpses* the first token. H is the entropy of that
token's distribution, in nats. Above the threshold the large model writes the step; otherwise the
small model does.

Some steps are not the threshold's to decide: the answer has its author, a model may have failed,
a budget may be spent. :class:`Rule` knows those, and asks a *policy* about all others.
:class:`Threshold` is the policy of the paper. To route by another signal, write a class with its
one method; see :class:`~glimp_integrations.method.policy.RoutingPolicy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.budgets import NO_BUDGETS, Budgets
from glimp_integrations.method.policy import (
    AnswerBy,
    Author,
    CloseThinking,
    Done,
    Glimpse,
    RoutingPolicy,
    StepStart,
    Stop,
    Write,
    WriteAlone,
)

__all__ = ["Action", "RandomBaseline", "Rule", "Threshold", "name_of"]

Action = Glimpse | Write | CloseThinking | WriteAlone | Stop | Done

_MOST_GLIMPSED = 32  # tokens; a glimpse is a look, not a step


@dataclass(frozen=True, slots=True)
class Threshold:
    """The policy of the paper: ``H > threshold`` is the large model's step.

    Args:
        threshold: In nats. ``inf``: the small model writes every step; below 0: the large one.
            Neither needs a glimpse.
    """

    threshold: float = 1.0

    name = "threshold"

    def decide(self, start: StepStart) -> Glimpse | Write:
        bound = self.threshold
        if bound == math.inf or bound < 0:
            author: Author = "small" if bound > 0 else "large"
            return Write(author, f"threshold {bound:g}", bound=bound)
        if start.glimpse is None:
            return Glimpse()
        h = start.glimpse.entropies[0]
        if h > bound:
            return Write("large", f"H {h:.2f} > {bound:.4g}", h, bound)
        return Write("small", f"H {h:.2f} <= {bound:.4g}", h, bound)


@dataclass(frozen=True, slots=True)
class RandomBaseline:
    """For comparisons: a random number decides, whatever H is. H is still measured.

    Args:
        share: Of steps that go to the large model, 0 to 1.
        draw: Returns random numbers from 0 to 1.
    """

    share: float
    draw: Callable[[], float]

    name = "random"

    def decide(self, start: StepStart) -> Glimpse | Write:
        if start.glimpse is None:
            return Glimpse()
        number = self.draw()
        if number < self.share:
            return Write("large", f"random {number:.2f} < {self.share:.4g}", number, self.share)
        return Write("small", f"random {number:.2f} >= {self.share:.4g}", number, self.share)


@dataclass(frozen=True, slots=True)
class Rule:
    """Decides about every step of a reply.

    Args:
        policy: Decides about the steps that are a policy's to decide.
        answer_by: Who writes the answer.
        first_large_steps: So many steps at the start of a chain are the large model's.
        budgets: What the call may take.
        alone: Why the large model writes everything in this call; ``None``: it is routed.
    """

    policy: RoutingPolicy = Threshold()
    answer_by: AnswerBy = "large"
    first_large_steps: int = 0
    budgets: Budgets = NO_BUDGETS
    alone: str | None = None

    def action(self, start: StepStart | None) -> Action:
        """What has to happen before the next step is written, or who writes it.

        Args:
            start: What is known of that step; ``None``: there is none, the reply is complete.

        Raises:
            ConfigError: The policy raised an exception, or returned something else than a
                decision.
        """
        if start is None:
            return Done()
        budgets = self.budgets
        # What has to follow a schema is written to its end: half of it would be of no use.
        if not start.constrained and (over := budgets.over(start.spent)) is not None:
            return Stop(over)
        if start.can_close and (closing := budgets.closing(start.spent)) is not None:
            return CloseThinking(closing)
        if start.only is not None:
            return Write(start.only, start.only_reason)
        if not start.constrained:
            spent = budgets.spent_for_large(start.spent, is_answer=True)
            if spent is not None:
                return WriteAlone("small", spent)
        if self.alone is not None:
            return Write("large", self.alone)
        return self._action(start)

    def _action(self, start: StepStart) -> Glimpse | Write:
        if start.is_answer and self.answer_by != "router":
            return Write(self.answer_by, f"answer_by={self.answer_by!r}")
        if start.constrained:
            return Write("large", "the step follows a schema")
        if start.decides_call:
            return Write("large", "decides on the call that the small model began")
        spent = self.budgets.spent_for_large(start.spent, is_answer=start.is_answer)
        if spent is not None:
            return Write("small", spent)
        if start.index < self.first_large_steps and not start.is_answer:
            return Write("large", f"first_large_steps={self.first_large_steps}")
        if start.glimpse is not None and not start.glimpse.entropies:
            # There is no step for the large model to improve.
            return Write("small", "the small model ended its text")
        return self._asked(start)

    def _asked(self, start: StepStart) -> Glimpse | Write:
        """What the policy says, checked: it may be anybody's."""
        name = name_of(self.policy)
        try:
            decision = self.policy.decide(start)
        except Exception as error:
            raise ConfigError(
                f"policy {name}: decide() raised {type(error).__name__} at step {start.index}: "
                f"{error}"
            ) from error
        if isinstance(decision, Write) and _is_decision(decision):
            return replace(decision, policy=name)
        if isinstance(decision, Glimpse) and start.glimpse is None and _is_short(decision):
            return decision
        raise ConfigError(
            f"policy {name}: decide() returned {decision!r} at step {start.index}; it has to "
            "return Write('small') or Write('large'), with a text as reason and numbers as signal "
            f"and bound if at all, or {_what_glimpse(start)}"
        )


def _is_decision(write: Write) -> bool:
    numbers = (write.signal, write.bound)
    return (
        write.author in ("small", "large")
        and isinstance(write.reason, str)
        and all(number is None or isinstance(number, Real) for number in numbers)
    )


def _is_short(glimpse: Glimpse) -> bool:
    return type(glimpse.tokens) is int and 1 <= glimpse.tokens <= _MOST_GLIMPSED


def _what_glimpse(start: StepStart) -> str:
    if start.glimpse is None:
        return f"Glimpse() of 1 to {_MOST_GLIMPSED} tokens"
    return "Glimpse() before the step's glimpse was made, which it was"


def name_of(policy: RoutingPolicy) -> str:
    """A policy's name in traces: its ``name``, or its class's."""
    name = getattr(policy, "name", None)
    return name if isinstance(name, str) and name else type(policy).__name__
