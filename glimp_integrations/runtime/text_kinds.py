"""Reasoning or answer? For models that do not think in tags only the end of the chain tells."""

from __future__ import annotations

from glimp_integrations.method.chain import Chain, Step
from glimp_integrations.trace.events import Event, Kind, KindResolved, TextDelta

__all__ = ["KindResolver"]


class KindResolver:
    """Turns shown text into events, holding back the judgement while it is open.

    With ``untagged_answer="last_step"`` a step is known to be reasoning as soon as a later one
    says something, so a reader waits for one step at most.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._open: list[str] = []  # text of unknown kind, behind what is settled
        self._length = 0  # of it
        self._first_word: int | None = None  # where in it something is said, first and last
        self._last_word = -1
        self._settled = 0  # characters that are known to be reasoning
        self._begin = 0  # where the step begins that was shown last
        self._step = 0

    def show(self, text: str, step: Step, *, undecided: bool) -> list[Event]:
        """Events for new text of ``step``. ``undecided``: it was written in an open phase."""
        if not text:
            return []
        if not undecided:
            kind = self._decided(step)
            return [TextDelta(text, step.index, step.author, kind)]
        words = text.rstrip()
        if words:
            if self._first_word is None:
                self._first_word = self._length + len(text) - len(text.lstrip())
            self._last_word = self._length + len(words) - 1
        self._open.append(text)
        self._length += len(text)
        events: list[Event] = [TextDelta(text, step.index, step.author, None)]
        if self._chain.settings.untagged_answer == "last_step":
            events += self._before(step)
        return events

    def settle(self) -> list[Event]:
        """Events once the chain knows its answer."""
        rest = "".join(self._open)
        begin = max(0, len(self._chain.reasoning) - self._settled)
        parts: list[tuple[str, Kind]] = [(rest[:begin], "reasoning"), (rest[begin:], "answer")]
        self._open, self._length, self._settled = [], 0, 0
        self._first_word, self._last_word = None, -1
        return [KindResolved(text, kind) for text, kind in parts if text]

    def _before(self, step: Step) -> list[Event]:
        """What is reasoning because ``step`` says something too."""
        # Text held back may be shown in a later step than its own: lengths tell, not time.
        begun = self._chain.first_of(step.index)
        self._begin += sum(len(s.text) for s in self._chain.steps[self._step : begun])
        self._step = begun
        cut = self._begin - self._settled
        if cut <= 0 or cut >= self._length:
            return []
        first = self._first_word
        if first is None or not first < cut <= self._last_word:
            return []  # one of the two says nothing; only where both do is the text looked at
        rest = "".join(self._open)
        later = rest[cut:]
        self._settled, self._open, self._length = self._begin, [later], self._length - cut
        self._first_word = len(later) - len(later.lstrip())
        self._last_word -= cut
        return [KindResolved(rest[:cut], "reasoning")]

    def _decided(self, step: Step) -> Kind:
        if step.is_answer or not self._chain.think_end_tags:
            return "answer"
        return "reasoning"
