"""Which of a chain's text is reasoning, and which is the visible reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimp_integrations.method.chain_state import ChainState
from glimp_integrations.method.steps import Step

__all__ = ["Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What of a chain's text is reasoning and what is answer, as it stands.

    Models that think in tags tell it themselves. Without tags, the last step that says something
    is the answer, or the whole text (``untagged_answer``); so while such a chain is written, nobody
    knows it yet.

    Args:
        chain: What is written.
    """

    chain: ChainState

    @property
    def reasoning(self) -> str:
        """The chain of thought without tags."""
        return "".join(s.text for s in self.chain.steps if self.kind_of(s) == "reasoning")

    @property
    def answer(self) -> str:
        """The visible reply."""
        steps = [s for s in self.chain.steps if self.kind_of(s) == "answer"]
        answer = "".join(s.text for s in steps)
        # Words before a call that a chain without tags made have no tag in front of them.
        return answer.lstrip() if steps and steps[0].is_answer and self.chain.separated else answer

    @property
    def undecided(self) -> bool:
        """Whether text of this phase may turn out to be reasoning or answer."""
        settings = self.chain.settings
        last_step = settings.untagged_answer == "last_step"
        may_change = settings.answer_marker is not None or self.chain.plan.forced is not None
        return self.chain.phase == "chain" and (last_step or may_change)

    def kind_of(self, step: Step) -> Literal["reasoning", "answer"]:
        """Whether a finished chain counts ``step`` as reasoning or as answer."""
        chain = self.chain
        if step.is_answer:
            return "answer"
        if chain.think_end_tags:
            return "reasoning"
        whole_reply = chain.settings.untagged_answer == "whole"
        if chain.separated:
            # A call that nobody demanded is a part of the reply, like the words before it.
            calls = chain.stop_reason == "tool_call" and chain.plan.forced is None
            return "answer" if whole_reply and calls else "reasoning"
        if whole_reply:
            return "answer"
        last = next((s.index for s in reversed(chain.steps) if s.text.strip()), 0)
        return "answer" if step.index >= self.first_of(last) else "reasoning"

    def first_of(self, step: int) -> int:
        """Where the step begins that this one continues, after a call that was only proposed."""
        while step and self.chain.steps[step - 1].end == "call_proposed":
            step -= 1
        return step
