"""Where a call can be watched from outside, for all adapters and all ways to call at once.

A watcher wraps the events of every call. It must pass all of them on, in order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import Event

__all__ = ["Call", "CallHook", "Events", "call_hooks", "hooked"]

Events = Callable[[], AsyncGenerator[Event, None]]


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of whom."""

    settings: RoutingSettings
    small: Backend
    large: Backend
    messages: Sequence[Message]
    output: OutputSpec


CallHook = Callable[[Call, Events], Events]
"""From a call and its events to the events its caller gets."""

call_hooks: list[CallHook] = []


def hooked(call: Call, events: Events) -> Events:
    """The events of a call, through all watchers."""
    for watcher in call_hooks:
        events = watcher(call, events)
    return events
