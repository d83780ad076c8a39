"""Finding ends in text that arrives in pieces. Pure: no I/O, no clock.

Two things are looked for. A *terminator* (the end-of-thinking tag, an answer marker, a stop
string) is removed from the text, so nothing of it may be shown before it is known to be one. The
*delimiter* of a step is kept. Either may lie across pieces or inside one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Cut", "Scanner", "Terminator"]

Terminator = Literal["think_end", "stop"]


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of one piece of text.

    Attributes:
        shown: Text that is now certain to belong to the reply.
        kept: How many characters of the piece (negative: also of earlier pieces) were kept.
        end: Why the step ends here; ``None`` if it goes on.
        leftover: Text of the piece lies behind the end and was dropped, so whoever wrote it is
            no longer at the point where the kept text ends.
    """

    shown: str
    kept: int
    end: Literal["delimiter"] | Terminator | None
    leftover: bool


class Scanner:
    """Cuts one phase (the thinking, the answer) into steps.

    Args:
        delimiter: Ends a step and stays in the text; ``None``: no steps in this phase.
        terminators: Text to meaning, in this phase.
    """

    def __init__(self, delimiter: str | None, terminators: Mapping[str, Terminator]) -> None:
        self._delimiter = delimiter
        self._terminators = dict(terminators)
        self._held = ""  # could still become a terminator; not shown yet
        self._tail = ""  # end of the running step, for a delimiter across pieces

    def feed(self, text: str, *, divisible: bool) -> Cut:
        """Take the next piece.

        Args:
            text: The piece.
            divisible: The piece holds an unknown number of tokens, so nothing says that
                newlines behind the delimiter came with it: they are dropped, which makes the
                result independent of how a server groups its output.
        """
        step_end = self._delimiter_end(text, divisible)
        window = self._held + text
        start, literal = self._first_terminator(window)
        # Whichever begins first counts: a stop string may begin with the delimiter, and an
        # end-of-thinking tag behind a delimiter belongs to the next step.
        if literal is not None and (step_end is None or start - len(self._held) < step_end):
            return self._terminate(window, start, literal, text)
        kept = text if step_end is None else text[:step_end]
        shown = self._release(self._held + kept)
        self._tail = "" if step_end is not None else self._grow_tail(kept)
        return Cut(
            shown=shown,
            kept=len(kept),
            end=None if step_end is None else "delimiter",
            leftover=len(kept) < len(text),
        )

    def end_step(self) -> None:
        """The step ended for another reason (its cap): a delimiter must not span the border."""
        self._tail = ""

    def flush(self) -> str:
        """The phase is over: what was held back belongs to the text after all."""
        held, self._held = self._held, ""
        return held

    def _terminate(self, window: str, start: int, literal: str, text: str) -> Cut:
        self._held = ""
        self._tail = ""
        return Cut(
            shown=window[:start],
            kept=len(text) - (len(window) - start),
            end=self._terminators[literal],
            leftover=start + len(literal) < len(window),
        )

    def _delimiter_length(self) -> int:
        return len(self._delimiter or "")

    def _delimiter_end(self, text: str, divisible: bool) -> int | None:
        if self._delimiter is None:
            return None
        found = (self._tail + text).find(self._delimiter)
        if found < 0:
            return None
        end = found + len(self._delimiter) - len(self._tail)
        if not divisible:
            # ".\n\n\n" is one token: its last newline is part of what was written.
            while end < len(text) and text[end] == "\n":
                end += 1
        return end

    def _grow_tail(self, kept: str) -> str:
        size = self._delimiter_length() - 1
        return (self._tail + kept)[-size:] if size > 0 else ""

    def _first_terminator(self, window: str) -> tuple[int, str | None]:
        best: tuple[int, str | None] = (len(window), None)
        for literal in self._terminators:
            found = window.find(literal)
            if 0 <= found < best[0] or (
                found == best[0] and best[1] is not None and len(literal) > len(best[1])
            ):
                best = (found, literal)
        return best

    def _release(self, window: str) -> str:
        hold = 0
        for literal in self._terminators:
            for size in range(min(len(literal) - 1, len(window)), hold, -1):
                if literal.startswith(window[len(window) - size :]):
                    hold = size
                    break
        cut = len(window) - hold
        self._held = window[cut:]
        return window[:cut]
