"""Events to the terminal while they happen: one colour per author, H above every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimp_integrations.trace.events import Event, Finished, StepStarted, TextDelta
from glimp_integrations.trace.records import Author
from glimp_integrations.trace.terminal import COLOURS, step_header, totals, visible
from glimp_integrations.trace.trace import RoutedAnswer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segments

__all__ = ["LivePrinter"]


class LivePrinter:
    """Call it with every event.

    Args:
        threshold: Nats, for the bars.
        console: A rich console; standard output by default.

    Attributes:
        result: The answer, once it is there.
    """

    def __init__(self, threshold: float, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        self._console = console
        self._threshold = threshold
        self._around: dict[Author, tuple[str, str]] = {}
        self._trailing = 2  # newlines the output ends with
        self.result: RoutedAnswer | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            self._gap()
            self._console.print(
                step_header(
                    event.index,
                    event.author,
                    event.entropy,
                    self._threshold,
                    is_answer=event.is_answer,
                    decides_call=event.decides_call,
                )
            )
            self._trailing = 1
        elif isinstance(event, TextDelta):
            self._write(visible(event.text), event.author)
            self._note_newlines(event.text)
        elif isinstance(event, Finished):
            self.result = event.result
            self._gap()
            self._console.print(totals(event.result.trace))

    def _write(self, text: str, author: Author) -> None:
        """Text exactly as it is: no markup, no wrapping, no expanded tabs."""
        console = self._console
        if text and _unwatched(console):
            # A fifth of the time of console.print, and this is done for every token.
            if author not in self._around:
                self._around[author] = self._codes(author)
            before, after = self._around[author]
            console.file.write(f"{before}{text}{after}")
        else:
            console.print(self._segments(text, author), end="", crop=False)
        console.file.flush()

    def _segments(self, text: str, author: Author) -> Segments:
        from rich.segment import Segment, Segments

        return Segments([Segment(text, self._console.get_style(COLOURS[author]))])

    def _codes(self, author: Author) -> tuple[str, str]:
        """What the console writes in front of and behind an author's text."""
        with self._console.capture() as written:
            self._console.print(self._segments("x", author), end="", crop=False)
        before, _, after = written.get().partition("x")
        return before, after

    def _note_newlines(self, text: str) -> None:
        ending = len(text) - len(text.rstrip("\n"))
        self._trailing = ending + (self._trailing if ending == len(text) else 0)

    def _gap(self) -> None:
        if self._trailing < 2:
            self._console.out("\n" * (2 - self._trailing), end="")
        self._trailing = 2


def _unwatched(console: Console) -> bool:
    """Whether text may go straight to the console's file: nobody records or captures it."""
    # The last two are rich's own affair; should it rename them, everything is printed by rich.
    return not (
        console.record
        or console.quiet
        or console.legacy_windows
        or console.is_jupyter
        or getattr(console, "_buffer_index", True)
        or getattr(console, "_render_hooks", True)
    )
