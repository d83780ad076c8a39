"""Reasoning or answer? For models that do not think in tags only the end of the chain tells."""

from __future__ import annotations

from glimp_integrations.decisions import Chain, Step
from glimp_integrations.events import Event, Kind, Settled, TextDelta

__all__ = ["Settler"]


class Settler:
    """Turns shown text into events, holding back the judgement while it is open.

    With ``untagged_answer="last_step"`` a step is known to be reasoning as soon as a later one
    says something, so a reader waits for one step at most.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._shown = ""  # all text of unknown kind
        self._settled = 0  # characters of it that are known to be reasoning

    def show(self, text: str, step: Step, *, undecided: bool) -> list[Event]:
        """Events for new text of ``step``. ``undecided``: it was written in an open phase."""
        if not text:
            return []
        if not undecided:
            kind = self._decided(step)
            return [TextDelta(text, step.index, step.author, kind)]
        self._shown += text
        events: list[Event] = [TextDelta(text, step.index, step.author, None)]
        if self._chain.settings.untagged_answer == "last_step":
            # Text held back may be shown in a later step than its own: lengths tell, not time.
            begin = sum(len(earlier.text) for earlier in self._chain.steps[: step.index])
            said = self._shown[begin:].strip() and self._shown[self._settled : begin].strip()
            if said:
                events.append(Settled(self._shown[self._settled : begin], "reasoning"))
                self._settled = begin
        return events

    def settle(self) -> list[Event]:
        """Events once the chain knows its answer."""
        begin = len(self._chain.reasoning)
        parts: list[tuple[str, Kind]] = [
            (self._shown[self._settled : begin], "reasoning"),
            (self._shown[max(begin, self._settled) :], "answer"),
        ]
        self._shown, self._settled = "", 0
        return [Settled(text, kind) for text, kind in parts if text]

    def _decided(self, step: Step) -> Kind:
        if step.is_answer or not self._chain.closers:
            return "answer"
        return "reasoning"
