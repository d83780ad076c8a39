"""``glimp ask``."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from glimp_integrations.errors import GlimpError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.trace.live import LivePrinter

__all__ = ["run"]


def run(question: str, trace: str | None, **options: Any) -> None:
    """Stream one answer to the terminal, followed by the totals.

    Args:
        question: The question.
        trace: A file for the trace; ``None``: it is not saved.
        **options: Settings of the router.
    """
    with GlimpRouter(**options) as router:
        printer = LivePrinter(router.settings.threshold)
        events: Any = router.stream(question)
        try:
            with closing(events):
                for event in events:
                    printer(event)
        except GlimpError as error:
            # The trace of what was written before the failure is saved, too.
            if trace is not None and error.partial is not None:
                error.partial.trace.save(trace)
            raise
    if trace is not None and printer.result is not None:
        printer.result.trace.save(trace)
