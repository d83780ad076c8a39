"""Routing events on LlamaIndex's instrumentation: what happens inside one call of the LLM.

Sent with ``step_events=True``, on the dispatcher of this module, with the id of the call's span:

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

from glimp_integrations.trace import events as core
from glimp_integrations.trace.records import StepRecord
from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp._streaming import Around

__all__ = [
    "RoutedReplyEvent",
    "RoutedStepEndEvent",
    "RoutedStepInProgressEvent",
    "RoutedStepStartEvent",
    "RoutingEvent",
    "atold",
    "told",
]

_dispatcher = get_dispatcher(__name__)


class RoutingEvent(BaseEvent):
    """Something happened on the way to a reply."""

    event: Any
    """The core's event, from ``glimp_integrations.trace.events``."""

    @classmethod
    def class_name(cls) -> str:
        """The class's name."""
        return cls.__name__

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        """All fields, as plain data."""
        left_out = {*(kwargs.pop("exclude", None) or ()), "event"}
        fields = super().model_dump(exclude=left_out, **kwargs)
        return {**fields, "event": core.to_dict(self.event)}


class RoutedStepStartEvent(RoutingEvent):
    """A step has an author: ``event.author``, and H in nats: ``event.entropy``."""

    event: core.StepStarted


class RoutedStepInProgressEvent(RoutingEvent):
    """New text or a piece of a tool call."""

    event: core.TextDelta | core.KindResolved | core.ToolCallDelta


class RoutedStepEndEvent(RoutingEvent):
    """A step is written."""

    event: core.StepDone

    @property
    def record(self) -> StepRecord:
        """Author, H, tokens, seconds and text of the step."""
        return self.event.record


class RoutedReplyEvent(RoutingEvent):
    """The reply is there."""

    event: core.Finished

    @property
    def result(self) -> RoutedAnswer:
        """Reasoning, answer, usage and trace."""
        return self.event.result


_CLASSES: dict[type[Any], type[RoutingEvent]] = {
    core.StepStarted: RoutedStepStartEvent,
    core.StepDone: RoutedStepEndEvent,
    core.Finished: RoutedReplyEvent,
}


def told(events: Iterator[core.Event]) -> Generator[core.Event, None, None]:
    """The same events; LlamaIndex's event handlers are told of each."""
    # Of the call, not of whoever happens to read the stream.
    return _told(events, active_span_id.get())


def atold(events: AsyncGenerator[core.Event, None]) -> AsyncGenerator[core.Event, None]:
    """Asynchronous :func:`told`."""
    span_id = active_span_id.get()
    return Around(events, seen=lambda event: _tell(event, span_id))


def _told(events: Any, span_id: str | None) -> Generator[core.Event, None, None]:
    with closing(events):
        for event in events:
            _tell(event, span_id)
            yield event


def _tell(event: core.Event, span_id: str | None) -> None:
    kind = _CLASSES.get(type(event), RoutedStepInProgressEvent)
    _dispatcher.event(kind(event=event, span_id=span_id))
