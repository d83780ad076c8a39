"""A routing policy: the large model writes where the small one wavers between two tokens.

    from examples.policies.margin import Margin  # or a copy of this file

    router = GlimpRouter(policy=Margin(0.3))

    glimp bench --arms large,routed:policy=examples.policies.margin:Margin,policy.bound=0.3,random

The margin is the probability of the likeliest token of a step's first place minus that of the
second likeliest. H looks at all tokens, the margin at the two that could be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimp_integrations.method.policy import Glimpse, StepStart, Write


@dataclass(frozen=True)
class Margin:
    """The large model writes a step if the margin is below the bound.

    Args:
        bound: 0 to 1. More sends more steps to the large model.
    """

    bound: float = 0.3
    name = "margin"

    def decide(self, start: StepStart) -> Glimpse | Write:
        if start.glimpse is None:
            return Glimpse(probabilities=True)
        first, second, *_ = [*(start.glimpse.probabilities or ()), 0.0, 0.0]
        margin = first - second
        if margin < self.bound:
            return Write("large", f"margin {margin:.2f} < {self.bound:g}", margin, self.bound)
        return Write("small", f"margin {margin:.2f} >= {self.bound:g}", margin, self.bound)
