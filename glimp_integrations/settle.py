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
        self._open: list[tuple[int, str]] = []

    def show(self, text: str, step: Step, *, undecided: bool) -> list[Event]:
        """Events for new text of ``step``. ``undecided``: it was written in an open phase."""
        if not text:
            return []
        if not undecided:
            kind = self._decided(step)
            return [TextDelta(text, step.index, step.author, kind)]
        events: list[Event] = [TextDelta(text, step.index, step.author, None)]
        last_step = self._chain.settings.untagged_answer == "last_step"
        if last_step and text.strip() and any(t.strip() for i, t in self._open if i < step.index):
            # White space in front of the new step stays with the step it came in.
            earlier = "".join(t for i, t in self._open if i < step.index)
            self._open = [(i, t) for i, t in self._open if i >= step.index]
            events.append(Settled(earlier, "reasoning"))
        self._open.append((step.index, text))
        return events

    def settle(self) -> list[Event]:
        """Events once the chain knows its answer."""
        if not self._open:
            return []
        events: list[Event] = []
        parts: list[tuple[Kind, str]] = []
        for index, text in self._open:
            kind = self._chain.kind_of(self._chain.steps[index])
            if parts and parts[-1][0] == kind:
                parts[-1] = (kind, parts[-1][1] + text)
            else:
                parts.append((kind, text))
        self._open = []
        events.extend(Settled(text, kind) for kind, text in parts)
        return events

    def _decided(self, step: Step) -> Kind:
        if step.is_answer or self._chain.tags is None:
            return "answer"
        return "reasoning"
