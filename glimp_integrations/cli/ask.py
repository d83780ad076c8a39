"""``glimp ask``."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from glimp_integrations.errors import ConfigError, GlimpError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.trace.live import LivePrinter

__all__ = ["run"]


def run(question: str, trace: str | None, prices: str | None = None, **options: Any) -> None:
    """Stream one answer to the terminal, followed by the totals.

    Args:
        question: The question.
        trace: A file for the trace; ``None``: it is not saved.
        prices: Of both models: ``"auto"``, or as
            :func:`~glimp_integrations.bench.summary.parse_prices` reads them.
        **options: Settings of the router; ``None``: the default.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if prices == "auto":
        given["prices"] = prices
    elif prices is not None:
        from glimp_integrations.bench.summary import parse_prices

        given["prices"] = parse_prices(prices)
    elif "max_cost" in given:
        raise ConfigError(
            f"--max-cost {given['max_cost']:g} needs the models' prices: add --prices "
            "SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT (per million tokens), or auto"
        )
    with GlimpRouter(**given) as router:
        by_threshold = router.settings.large_share is None
        printer = LivePrinter(router.settings.threshold if by_threshold else None)
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
