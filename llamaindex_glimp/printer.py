"""An event handler that shows the routing in the terminal while it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from pydantic import PrivateAttr

from glimp_integrations.trace.live import LivePrinter
from llamaindex_glimp.events import RoutingEvent

if TYPE_CHECKING:
    from rich.console import Console

    from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["StepPrinter"]


class StepPrinter(BaseEventHandler):
    """Prints every step as it is written, coloured by author.

    The LLM needs ``step_events=True``.

    Example:
        >>> from llama_index.core.instrumentation import get_dispatcher
        >>> get_dispatcher().add_event_handler(StepPrinter())  # doctest: +SKIP

    Args:
        threshold: The LLM's threshold in nats, at which the bars of the entropies are marked.
        console: A rich console; ``None``: standard output.
    """

    _printer: LivePrinter = PrivateAttr()

    def __init__(self, threshold: float = 1.0, console: Console | None = None) -> None:
        super().__init__()
        self._printer = LivePrinter(threshold, console)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows the handler."""
        return "GlimpStepPrinter"

    @property
    def result(self) -> RoutedAnswer | None:
        """The last answer, with its trace; ``None`` before the first."""
        return self._printer.result

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Print one routing event. LlamaIndex calls this, with all other events too."""
        if isinstance(event, RoutingEvent):
            self._printer(event.event)
