"""A callback that shows routing on the terminal while it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from glimp_integrations.trace.events import from_dict
from glimp_integrations.trace.live import LivePrinter
from langchain_glimp._base import STEP_EVENT

if TYPE_CHECKING:
    from rich.console import Console

    from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["StepPrinter"]


class StepPrinter(BaseCallbackHandler):
    """Prints steps as they are written, coloured by author; needs ``step_events=True``.

    Args:
        threshold: Nats, for the bars.
        console: A rich console; standard output by default.
    """

    def __init__(self, threshold: float = 1.0, console: Console | None = None) -> None:
        self._printer = LivePrinter(threshold, console)

    @property
    def result(self) -> RoutedAnswer | None:
        """The last answer, with its trace."""
        return self._printer.result

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Receive one routing event."""
        if name == STEP_EVENT:
            self._printer(from_dict(data))
