"""Where a call can be watched from outside, for all adapters and all ways to call at once.

A watcher wraps the events of every call. It must pass all of them on, in order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.output.spec import Form
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import Event

__all__ = ["Call", "Events", "Watcher", "watched", "watchers"]

Events = Callable[[], AsyncGenerator[Event, None]]


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of whom."""

    settings: RoutingSettings
    small: Backend
    large: Backend
    messages: Sequence[Message]
    form: Form


Watcher = Callable[[Call, Events], Events]
"""From a call and its events to the events its caller gets."""

watchers: list[Watcher] = []


def watched(call: Call, events: Events) -> Events:
    """The events of a call, through all watchers."""
    for watcher in watchers:
        events = watcher(call, events)
    return events
