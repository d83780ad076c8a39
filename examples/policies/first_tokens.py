"""A routing policy: the mean H of a step's first tokens decides, not H of the first alone.

    from examples.policies.first_tokens import FirstTokens  # or a copy of this file

    router = GlimpRouter(policy=FirstTokens(0.6))

    glimp bench --arms large,routed@1,routed:policy=examples.policies.first_tokens:FirstTokens

The tokens are the small model's own, and kept if it writes the step. With the strategy
``two_request`` each of them is a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from glimp_integrations.method.policy import Glimpse, StepStart, Write


@dataclass(frozen=True)
class FirstTokens:
    """The large model writes a step if the mean is above the bound.

    Args:
        bound: In nats. It is another number than a threshold for the first token.
        tokens: How many tokens are looked at; fewer where the small model ends its text.
    """

    bound: float = 0.6
    tokens: int = 4
    name = "first_tokens"

    def decide(self, start: StepStart) -> Glimpse | Write:
        if start.glimpse is None:
            return Glimpse(tokens=self.tokens)
        mean = fmean(start.glimpse.entropies)
        if mean > self.bound:
            return Write("large", f"mean H {mean:.2f} > {self.bound:g}", mean, self.bound)
        return Write("small", f"mean H {mean:.2f} <= {self.bound:g}", mean, self.bound)
