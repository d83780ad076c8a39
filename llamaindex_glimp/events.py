"""Routing events in LlamaIndex's instrumentation: what happens inside one call of the LLM.

An LLM with ``step_events=True`` sends them on this module's dispatcher, with the id of the call's
span::

    class Watch(BaseEventHandler):
        def handle(self, event, **kwargs):
            if isinstance(event, RoutedStepEndEvent):
                print(event.record.author, event.record.entropy)

    get_dispatcher().add_event_handler(Watch())
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import closing
from typing import Any

from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import active_span_id
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from glimp_integrations.trace import events as core
from glimp_integrations.trace.records import StepRecord
from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp._streaming import ClosingStream

__all__ = [
    "RoutedReplyEvent",
    "RoutedStepEndEvent",
    "RoutedStepInProgressEvent",
    "RoutedStepStartEvent",
    "RoutingEvent",
    "anotify_each",
    "notify_each",
]

_dispatcher = get_dispatcher(__name__)


class RoutingEvent(BaseEvent):
    """The base of all routing events: something happened on the way to a reply."""

    event: Any = Field(description="The core's event, from glimp_integrations.trace.events.")

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows the event."""
        return cls.__name__

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        """All fields as plain data.

        Args:
            **kwargs: Arguments of pydantic's ``model_dump``.
        """
        left_out = {*(kwargs.pop("exclude", None) or ()), "event"}
        fields = super().model_dump(exclude=left_out, **kwargs)
        return {**fields, "event": core.to_dict(self.event)}


class RoutedStepStartEvent(RoutingEvent):
    """A step begins: its author and the entropy of its first token are known."""

    event: core.StepStarted = Field(
        description="The core's event; author is 'small' or 'large', entropy is in nats."
    )


class RoutedStepInProgressEvent(RoutingEvent):
    """New text, or a part of a tool call, is written."""

    event: core.TextDelta | core.KindResolved | core.ToolCallDelta = Field(
        description="The core's event, with the text or the part of the call."
    )


class RoutedStepEndEvent(RoutingEvent):
    """A step is complete."""

    event: core.StepDone = Field(description="The core's event, with the record of the step.")

    @property
    def record(self) -> StepRecord:
        """The step's author, entropy in nats, tokens, seconds and text."""
        return self.event.record


class RoutedReplyEvent(RoutingEvent):
    """The reply is complete."""

    event: core.Finished = Field(description="The core's event, with the result of the call.")

    @property
    def result(self) -> RoutedAnswer:
        """The reply's reasoning, answer, usage and trace."""
        return self.event.result


_CLASSES: dict[type[Any], type[RoutingEvent]] = {
    core.StepStarted: RoutedStepStartEvent,
    core.StepDone: RoutedStepEndEvent,
    core.Finished: RoutedReplyEvent,
}


def notify_each(events: Iterator[core.Event]) -> Generator[core.Event, None, None]:
    """The same events. LlamaIndex's event handlers are notified of each."""
    # The span of the call that made the stream, not of the code that happens to read it.
    return _notify_each(events, active_span_id.get())


def anotify_each(events: AsyncGenerator[core.Event, None]) -> AsyncGenerator[core.Event, None]:
    """Asynchronous :func:`notify_each`."""
    span_id = active_span_id.get()
    return ClosingStream(events, on_item=lambda event: _notify(event, span_id))


def _notify_each(events: Any, span_id: str | None) -> Generator[core.Event, None, None]:
    with closing(events):
        for event in events:
            _notify(event, span_id)
            yield event


def _notify(event: core.Event, span_id: str | None) -> None:
    event_class = _CLASSES.get(type(event), RoutedStepInProgressEvent)
    _dispatcher.event(event_class(event=event, span_id=span_id))
