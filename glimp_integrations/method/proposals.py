"""Calls that are begun in a chain without think tags, and who decides on them.

A call belongs to the answer. Where the large model writes that, a call that the small model begins
is only a proposal: it is taken out of the text, and the large model writes the next step freely.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from glimp_integrations.method.steps import Proposal, Step

__all__ = ["ProposedCalls"]


@dataclass(slots=True)
class ProposedCalls:
    """The calls that were begun in one chain.

    Attributes:
        made: All of them, in order.
        awaited: A call that the running step begins is only a proposal.
    """

    made: list[Proposal] = field(default_factory=list)
    awaited: bool = False
    _pieces: list[tuple[int, int]] = field(default_factory=list)  # their characters and tokens

    def begin_step(self, *, awaited: bool) -> None:
        """A step begins.

        Args:
            awaited: A call that it begins is only a proposal.
        """
        self.awaited, self._pieces = awaited, []

    def count(self, characters: int, tokens: int) -> None:
        """Count a piece of a step in which a proposal is awaited."""
        self._pieces.append((characters, tokens))

    def decided_in(self, step: int) -> bool:
        """Whether this step is written to decide on a call that the other model began."""
        last = self.made[-1] if self.made else None
        return last is not None and last.step < last.decided_in == step

    def propose(self, step: Step, trigger: str) -> int:
        """A step ended because its author, which cannot decide on a call, began one.

        Args:
            step: It; the call's beginning is no longer in its text.
            trigger: The text that began the call.

        Returns:
            Tokens that were written for nothing: those of pieces of which no text is left.
        """
        self.made.append(Proposal(step.index, step.index + 1, trigger))
        kept, dropped = sum(characters for characters, _ in self._pieces), 0
        for characters, tokens in reversed(self._pieces):
            kept -= characters
            if kept < len(step.text):
                break
            dropped += tokens
        return dropped

    def decide(self, step: int, trigger: str) -> None:
        """A step's author began a call and may do so; perhaps it was another's proposal."""
        if not self.decided_in(step):
            self.made.append(Proposal(step, step, trigger))

    def postpone(self, step: int) -> None:
        """A step failed; what it was to decide is decided in the step that comes instead."""
        if self.decided_in(step):
            last = self.made[-1]
            self.made[-1] = Proposal(last.step, step + 1, last.trigger)
