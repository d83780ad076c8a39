"""Events to the terminal while they happen: one colour per author, H above every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimp_integrations.events import Event, Finished, StepStarted, TextDelta
from glimp_integrations.show import COLOURS, step_header, totals, visible
from glimp_integrations.trace import RoutedAnswer

if TYPE_CHECKING:
    from rich.console import Console

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
        self._trailing = 2  # newlines the output ends with
        self.result: RoutedAnswer | None = None

    def __call__(self, event: Event) -> None:
        from rich.segment import Segment, Segments

        if isinstance(event, StepStarted):
            self._gap()
            self._console.print(
                step_header(
                    event.index,
                    event.author,
                    event.entropy,
                    self._threshold,
                    is_answer=event.is_answer,
                )
            )
            self._trailing = 1
        elif isinstance(event, TextDelta):
            # Segments are exact: no markup, no wrapping, no expanded tabs.
            style = self._console.get_style(COLOURS[event.author])
            text = Segments([Segment(visible(event.text), style)])
            self._console.print(text, end="", crop=False)
            self._console.file.flush()
            self._note_newlines(event.text)
        elif isinstance(event, Finished):
            self.result = event.result
            self._gap()
            self._console.print(totals(event.result.trace))

    def _note_newlines(self, text: str) -> None:
        ending = len(text) - len(text.rstrip("\n"))
        self._trailing = ending + (self._trailing if ending == len(text) else 0)

    def _gap(self) -> None:
        if self._trailing < 2:
            self._console.out("\n" * (2 - self._trailing), end="")
        self._trailing = 2
