"""Where steps end, in text that arrives in pieces.

Three things are looked for. A *terminator* (a think end tag, an answer marker, a stop string) and
a *trigger* (the beginning of a tool call or of JSON) are removed from the text, so nothing of them
may be shown before it is certain what they are. The *delimiter* of a step is kept. Each of them
may lie inside one piece or be spread over several.

The time that a piece takes depends on its own length and not on the text that is held back: what
was looked at once is not looked at again, except for the few hundred characters that a trigger
may have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import regex

__all__ = ["Cut", "Scanner", "Terminator"]

Terminator = Literal["think_start", "think_end", "stop", "trigger"]


class Cut(NamedTuple):
    """What became of one piece of text.

    Attributes:
        shown: Text that is now certain to belong to the reply.
        kept: How many characters of the piece (negative: also of earlier pieces) were kept.
        end: Why the step ends here; ``None`` if it goes on.
        truncated: Text of the piece lies after the end and was dropped, so the model that wrote it
            is no longer at the point where the kept text ends.
        trigger: What began the call, or the JSON, that the step ends at; or the think start tag.
    """

    shown: str
    kept: int
    end: Literal["delimiter"] | Terminator | None
    truncated: bool
    trigger: str = ""


@dataclass(frozen=True, slots=True)
class _Hit:
    """A terminator or a trigger at ``start`` of the window."""

    start: int
    text: str
    end: Terminator


class _Literal:
    """How much of a terminator the text read so far ends with (Knuth, Morris and Pratt)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._shorter = _borders(text)
        self.size = 0  # characters of the terminator, all of them never

    def feed(self, text: str) -> None:
        """Take text that is kept; the terminator is not in it, nor across its beginning."""
        most = len(self._text) - 1
        if len(text) >= most:  # nothing before it matters
            self.size, text = 0, text[len(text) - most :]
        size, target = self.size, self._text
        for character in text:
            while size and target[size] != character:
                size = self._shorter[size - 1]
            size += target[size] == character
        self.size = size


def _borders(text: str) -> list[int]:
    """For each beginning of a text: the longest shorter one that it ends with."""
    borders, size = [0] * len(text), 0
    for place in range(1, len(text)):
        while size and text[size] != text[place]:
            size = borders[size - 1]
        size += text[size] == text[place]
        borders[place] = size
    return borders


class Scanner:
    """Cuts one phase (the thinking, the answer) into steps.

    Args:
        delimiter: Ends a step and stays in the text; ``None``: no steps in this phase.
        terminators: Text to meaning, in this phase.
        trigger: Where a call, or the JSON that was asked for, begins.
    """

    def __init__(
        self,
        delimiter: str | None,
        terminators: Mapping[str, Terminator],
        trigger: regex.Pattern[str] | None = None,
    ) -> None:
        self._delimiter = delimiter
        self.trigger = trigger
        self._before = "\n"  # the character before the window; a phase begins a line
        self._held = ""  # could still become a terminator or a trigger; not shown yet
        self._ruled_out = 0  # of what is held: no trigger begins there
        self._tail = ""  # end of the running step, for a delimiter across pieces
        self._look_for_terminators(terminators)

    def feed(self, text: str, *, multi_token: bool) -> Cut:
        """Take the next piece.

        Args:
            text: The piece.
            multi_token: The piece holds an unknown number of tokens, so nothing says that
                newlines after the delimiter came with it: they are dropped, which makes the
                result independent of how a server groups its output.
        """
        if self.trigger is None and not (self._held or self._tail or self._may_begin(text)):
            # Nothing is looked for that could begin, or go on, in this piece: most are such.
            self._before = text[-1:] or self._before
            return Cut(text, len(text), None, truncated=False)
        step_end = self._delimiter_end(text, multi_token)
        # What was held back belongs to earlier pieces, so positions in the window count from
        # there, and positions in the piece are smaller by its length.
        window = self._held + text
        call = self._call(window)
        hit = self._first(window, call)
        # Whichever begins first counts: a stop string may begin with the delimiter, and a
        # think end tag after a delimiter belongs to the next step.
        if hit is not None and (step_end is None or hit.start - len(self._held) < step_end):
            return self._terminate(window, hit, text)
        kept = text if step_end is None else text[:step_end]
        if len(kept) < len(text):
            # A trigger that was seen to begin may have begun in the part that is dropped.
            call = self._call(self._held + kept)
        shown = self._release(kept, call)
        self._tail = "" if step_end is not None else self._grow_tail(kept)
        return Cut(
            shown=shown,
            kept=len(kept),
            end=None if step_end is None else "delimiter",
            truncated=len(kept) < len(text),
        )

    def end_step(self) -> None:
        """The step ended for another reason (its cap): a delimiter must not span the border."""
        self._tail = ""

    def hold(self, text: str) -> None:
        """Text that was cut off stays after all, and may still become a trigger.

        That is so where the small model completed a trigger that the large model's step had begun:
        the small model's part is dropped, and the large model may complete it itself.
        """
        self._held = text
        for literal in self._literals:
            literal.feed(text)

    def look_for(self, trigger: regex.Pattern[str] | None) -> None:
        """From here on another pattern is the trigger."""
        if trigger is not self.trigger:
            self.trigger, self._ruled_out = trigger, 0

    def drop(self, texts: Collection[str]) -> bool:
        """Look for these terminators no more.

        Returns:
            Whether that is so from here on; ``False``: something may have begun, ask again later.
        """
        if self._held or self._tail:
            return False
        self._look_for_terminators({t: e for t, e in self._terminators.items() if t not in texts})
        return True

    def flush(self) -> str:
        """The phase is over: what was held back belongs to the text after all."""
        held = self._held
        self._forget()
        return held

    def _look_for_terminators(self, terminators: Mapping[str, Terminator]) -> None:
        self._terminators = dict(terminators)
        self._literals = [_Literal(text) for text in self._terminators]
        begins = "".join({text[0] for text in (self._delimiter, *self._terminators) if text})
        self._may_begin = re.compile(f"[{re.escape(begins)}]" if begins else r"(?!)").search

    def _forget(self) -> None:
        self._held, self._ruled_out = "", 0
        for literal in self._literals:
            literal.size = 0

    def _terminate(self, window: str, hit: _Hit, text: str) -> Cut:
        """Cut at a terminator or a trigger, which is removed.

        It may have begun in text that was kept already: then ``kept`` is negative, and the chain
        takes that much back from its steps.
        """
        self._forget()
        self._tail = ""
        return Cut(
            shown=window[: hit.start],
            kept=len(text) - (len(window) - hit.start),
            end=hit.end,
            truncated=hit.start + len(hit.text) < len(window),
            trigger=hit.text if hit.end in ("trigger", "think_start") else "",
        )

    def _delimiter_length(self) -> int:
        return len(self._delimiter or "")

    def _delimiter_end(self, text: str, multi_token: bool) -> int | None:
        """Where in the piece the step ends; the delimiter may have begun in earlier pieces."""
        if self._delimiter is None:
            return None
        start = (self._tail + text).find(self._delimiter)
        if start < 0:
            return None
        end = start + len(self._delimiter) - len(self._tail)
        if not multi_token:
            # ".\n\n\n" is one token: its last newline is part of what was written.
            while end < len(text) and text[end] == "\n":
                end += 1
        return end

    def _grow_tail(self, kept: str) -> str:
        size = self._delimiter_length() - 1
        tail = (self._tail + kept)[-size:] if size > 0 else ""
        return tail if self._delimiter and self._delimiter[0] in tail else ""

    def _first(self, window: str, call: regex.Match[str] | None) -> _Hit | None:
        """The terminator or trigger that begins first; of two at one place, the longer one."""
        best: _Hit | None = None
        for literal, end in self._terminators.items():
            # Held text was searched before: only what a new character completes can be new.
            start = window.find(literal, max(0, len(self._held) - len(literal) + 1))
            if start < 0 or (best is not None and start > best.start):
                continue
            if best is None or start < best.start or len(literal) > len(best.text):
                best = _Hit(start, literal, end)
        if (
            call is not None
            and not call.partial
            and (best is None or call.start() - 1 < best.start)
        ):
            return _Hit(call.start() - 1, call[0], "trigger")
        return best

    def _call(self, window: str) -> regex.Match[str] | None:
        """Where a call begins, or may turn out to begin; counted from the character before."""
        if self.trigger is None:
            return None
        return self.trigger.search(self._before + window, pos=1 + self._ruled_out, partial=True)

    def _release(self, kept: str, call: regex.Match[str] | None) -> str:
        """What is shown of the window; its end is held back as far as it may still become an end.

        Two things can need that: a trigger that has begun (``call`` is a partial match then), and
        a terminator of which some characters are there. Whichever began first decides.
        """
        window = self._held + kept
        possible_trigger = len(window) if call is None else call.start() - 1
        hold = len(window) - possible_trigger
        for literal in self._literals:
            literal.feed(kept)
            hold = max(hold, literal.size)
        cut = len(window) - hold
        self._held = window[cut:]
        # Held back for a terminator's sake, this much of the text is known to begin no trigger,
        # so the next search starts after it: that keeps long runs of blanks linear.
        self._ruled_out = possible_trigger - cut
        self._before = window[cut - 1] if cut else self._before
        return window[:cut]
