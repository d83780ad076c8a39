r"""A routing policy: the three triggers of TrigReason (arXiv 2604.14847).

    from examples.policies.trigreason import TrigReason  # or a copy of this file

    router = GlimpRouter(policy=TrigReason(priming=2), strategy="fused")

    glimp bench --strategy fused \
        --arms large,routed:policy=examples.policies.trigreason:TrigReason,policy.sure=0.8

It looks back at what was written and makes no glimpse. The numbers here are a beginning: choose
them on your questions. The strategy ``two_request`` does not tell how sure the small model was.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimp_integrations.method.policy import StepStart, Write


@dataclass(frozen=True)
class TrigReason:
    """The small model writes, until a trigger calls the large one.

    Args:
        priming: So many first steps are the large model's.
        sure: 0 to 1. After a small step with a larger share of sure tokens, the large model writes.
        hesitant: After so many small steps in a row that open with a word of doubt, likewise.
        words: Those words, in lower case.
    """

    priming: int = 1
    sure: float = 0.9
    hesitant: int = 3
    words: tuple[str, ...] = ("wait", "hmm", "but", "alternatively")
    name = "trigreason"

    def decide(self, start: StepStart) -> Write:
        if start.index < self.priming:
            return Write("large", f"priming: step {start.index} of {self.priming}")
        last = start.steps[-1] if start.steps else None
        if last is None or last.author != "small":
            return Write("small", "no trigger")
        if last.tokens and all(s.sure_share is None for s in start.steps if s.author == "small"):
            raise ValueError("it is not known how sure the small model was: use strategy='fused'")
        share = last.sure_share or 0.0
        if share > self.sure:
            return Write("large", f"over-confident: {share:.2f} sure", share, self.sure)
        doubts = [s.author == "small" and self._hesitates(s.text) for s in start.steps]
        if len(doubts) >= self.hesitant and all(doubts[-self.hesitant :]):
            return Write("large", f"{self.hesitant} hesitant steps")
        return Write("small", "no trigger", share, self.sure)

    def _hesitates(self, text: str) -> bool:
        first = (text.split() or [""])[0].strip(".,;:!?…*-—'\"").lower()
        return first in self.words
