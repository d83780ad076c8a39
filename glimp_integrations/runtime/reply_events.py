"""From shown text to events: reasoning or answer, and tool calls taken out of the answer."""

from __future__ import annotations

from glimp_integrations.method.chain import Chain
from glimp_integrations.method.reply import Reply
from glimp_integrations.method.steps import Step
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.trace.events import Event, Kind, KindResolved, TextDelta, ToolCallDelta

__all__ = ["KindResolver", "ReplyEvents"]


class ReplyEvents:
    """The events of one reply's text.

    Args:
        chain: What is written.
        parser: Finds tool calls in the answer's text.
    """

    def __init__(self, chain: Chain, parser: ToolCallParser) -> None:
        self._chain = chain
        self._parser = parser
        self._kinds = KindResolver(chain)
        self._resolved_late = False  # the answer's text was shown before its kind was known

    def show(self, text: str, step: Step, *, undecided: bool) -> list[Event]:
        """Events for new text of a step.

        Args:
            text: The text.
            step: The step.
            undecided: Nobody can tell yet whether it is reasoning or answer.
        """
        return self._without_calls(self._kinds.show(text, step, undecided=undecided))

    def resolve_kinds(self) -> list[Event]:
        """Events that tell the kind of all text shown so far, once the chain knows it."""
        return self._without_calls(self._kinds.resolve())

    def end(self) -> list[Event]:
        """The last events of the reply."""
        return [*self.resolve_kinds(), *self._events_of(self._parser.end())]

    def _without_calls(self, events: list[Event]) -> list[Event]:
        if not self._parser.names:
            return events
        without: list[Event] = []
        for event in events:
            if isinstance(event, TextDelta | KindResolved) and event.kind == "answer":
                self._resolved_late = isinstance(event, KindResolved)
                without += self._events_of(self._parser.feed(event.text))
            else:
                without.append(event)
        return without

    def _events_of(self, pieces: list[str | ToolCallDelta]) -> list[Event]:
        """Pieces of the answer as events."""
        step = self._chain.steps[-1] if self._chain.steps else None
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, ToolCallDelta):
                events.append(piece)
            elif self._resolved_late or step is None:
                events.append(KindResolved(piece, "answer"))
            else:
                events.append(TextDelta(piece, step.index, step.author, "answer"))
        return events


class KindResolver:
    """Tells reasoning and answer apart where only the end of the chain shows which is which.

    That is so for models that do not think in tags. With ``untagged_answer="last_step"`` a step
    is known to be reasoning as soon as a later one says something, so a reader waits for one step
    at most.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._open: list[str] = []  # text of unknown kind, after what is resolved
        self._length = 0  # of it
        self._first_word: int | None = None  # where in it something is said, first and last
        self._last_word = -1
        self._resolved = 0  # characters that are known to be reasoning
        self._begin = 0  # where the step begins that was shown last
        self._step = 0

    def show(self, text: str, step: Step, *, undecided: bool) -> list[Event]:
        """Events for new text of ``step``. ``undecided``: it was written in an open phase."""
        if not text:
            return []
        if not undecided:
            return [TextDelta(text, step.index, step.author, self._kind_of(step))]
        words = text.rstrip()
        if words:
            if self._first_word is None:
                self._first_word = self._length + len(text) - len(text.lstrip())
            self._last_word = self._length + len(words) - 1
        self._open.append(text)
        self._length += len(text)
        events: list[Event] = [TextDelta(text, step.index, step.author, None)]
        if self._chain.settings.untagged_answer == "last_step":
            events += self._resolve_before(step)
        return events

    def resolve(self) -> list[Event]:
        """Events once the chain knows its answer."""
        rest = "".join(self._open)
        begin = max(0, len(Reply(self._chain).reasoning) - self._resolved)
        parts: list[tuple[str, Kind]] = [(rest[:begin], "reasoning"), (rest[begin:], "answer")]
        self._open, self._length, self._resolved = [], 0, 0
        self._first_word, self._last_word = None, -1
        return [KindResolved(text, kind) for text, kind in parts if text]

    def _resolve_before(self, step: Step) -> list[Event]:
        """What is reasoning because ``step`` says something too.

        Text that was held back may be shown in a later step than the one it belongs to. So not
        the moment it is shown tells whose it is, but how long the steps' texts are.
        """
        start = Reply(self._chain).first_of(step.index)
        self._begin += sum(len(s.text) for s in self._chain.steps[self._step : start])
        self._step = start
        cut = self._begin - self._resolved
        if cut <= 0 or cut >= self._length:
            return []
        first = self._first_word
        if first is None or not first < cut <= self._last_word:
            return []  # one of the two says nothing; only where both do is the text looked at
        rest = "".join(self._open)
        later = rest[cut:]
        self._resolved, self._open, self._length = self._begin, [later], self._length - cut
        self._first_word = len(later) - len(later.lstrip())
        self._last_word -= cut
        return [KindResolved(rest[:cut], "reasoning")]

    def _kind_of(self, step: Step) -> Kind:
        if step.is_answer or not self._chain.think_end_tags:
            return "answer"
        return "reasoning"
