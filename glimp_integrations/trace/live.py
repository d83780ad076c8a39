"""Prints a call while it runs: one colour for each author, H above every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from glimp_integrations.method.policy import Author
from glimp_integrations.trace.events import Event, Finished, StepStarted, TextDelta
from glimp_integrations.trace.step_lines import COLOURS, visible
from glimp_integrations.trace.terminal import step_header, totals
from glimp_integrations.trace.trace import RoutedAnswer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LivePrinter"]


class LivePrinter:
    """Call it with every event of a call.

    Args:
        threshold: Nats, for the bars of steps that do not tell their own; ``None``: it is not H
            that decides.
        console: A rich console; standard output by default.

    Attributes:
        result: The answer; ``None`` until the call is finished.
    """

    def __init__(self, threshold: float | None, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        self._console = console
        self._threshold = math.nan if threshold is None else threshold
        self._trailing = 2  # newlines at the end of the output
        self.result: RoutedAnswer | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            self._blank_line()
            threshold, by_entropy = event.threshold, event.threshold is not None
            if threshold is None:
                threshold = math.nan if event.reason else self._threshold
            header = step_header(
                event.index,
                event.author,
                event.entropy,
                threshold,
                is_answer=event.is_answer,
                decides_call=event.decides_call,
            )
            if event.entropy is not None and event.reason and not by_entropy:
                header.append(f"  {visible(event.reason)}", style="dim")
            self._console.print(header)
            self._trailing = 1
        elif isinstance(event, TextDelta):
            self._write(visible(event.text), event.author)
            self._count_newlines(event.text)
        elif isinstance(event, Finished):
            self.result = event.result
            self._blank_line()
            self._console.print(totals(event.result.trace))

    def _write(self, text: str, author: Author) -> None:
        """Print text exactly as it is: no markup, no wrapping, no expanded tabs."""
        from rich.segment import Segment, Segments

        style = self._console.get_style(COLOURS[author])
        self._console.print(Segments([Segment(text, style)]), end="", crop=False)

    def _count_newlines(self, text: str) -> None:
        newlines = len(text) - len(text.rstrip("\n"))
        self._trailing = newlines + (self._trailing if newlines == len(text) else 0)

    def _blank_line(self) -> None:
        if self._trailing < 2:
            self._console.out("\n" * (2 - self._trailing), end="")
        self._trailing = 2
