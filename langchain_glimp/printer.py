"""A callback that shows the routing in the terminal while it happens."""

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
    """Prints every step as it is written, coloured by author.

    The model needs ``step_events=True``.

    Args:
        threshold: The model's threshold in nats, at which the bars of the entropies are marked.
        console: A rich console; ``None``: standard output.
    """

    def __init__(self, threshold: float = 1.0, console: Console | None = None) -> None:
        self._printer = LivePrinter(threshold, console)

    @property
    def result(self) -> RoutedAnswer | None:
        """The last answer, with its trace; ``None`` before the first."""
        return self._printer.result

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Print one routing event. LangChain calls this."""
        if name == STEP_EVENT:
            self._printer(from_dict(data))
