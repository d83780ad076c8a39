"""``glimp ask``."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from glimp_integrations.errors import GlimpError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.trace.live import LivePrinter

__all__ = ["run"]


def run(question: str, trace: str | None, **options: Any) -> None:
    """Stream one answer to the terminal, then the totals."""
    with GlimpRouter(**options) as router:
        printer = LivePrinter(router.settings.threshold)
        events: Any = router.stream(question)
        try:
            with closing(events):
                for event in events:
                    printer(event)
        except GlimpError as error:
            # What was written before the failure is kept.
            if trace is not None and error.partial is not None:
                error.partial.trace.save(trace)
            raise
    if trace is not None and printer.result is not None:
        printer.result.trace.save(trace)
