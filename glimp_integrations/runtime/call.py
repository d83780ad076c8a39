"""One call, and the hooks that see its events: the one place for all adapters and ways to call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from glimp_integrations.backends.base import Backend, Message
from glimp_integrations.callers import Line
from glimp_integrations.method.accounts import ROUTED, Plan
from glimp_integrations.method.policy import Author, RoutingPolicy
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.events import Event
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["WHEN_OVER", "Call", "CallHook", "Events", "WhenOver", "call_hooks", "hooked"]

Events = Callable[[], AsyncGenerator[Event, None]]

WhenOver = Callable[[RoutedAnswer, bool], None]
"""From what a call came to, and whether it came to its end, to nothing."""

WHEN_OVER: ContextVar[WhenOver | None] = ContextVar("WHEN_OVER", default=None)
"""Told once of a call that is made where this is set, on the loop of the models: right before its
last event, or else when its models have stopped, because its caller left or a model failed. What
such a call took is known then only, and no event reaches whoever has left."""


@dataclass(frozen=True, slots=True)
class Call:
    """One conversation to be answered.

    Attributes:
        settings: The call's own.
        small: The small model.
        large: The large model.
        messages: The conversation, checked.
        output: What is asked for besides text.
        line: The user's line that made the call.
        policy: Decides who writes a step; ``None``: the settings' threshold.
        plan: Whether it is routed at all, and why.
        streamed: Somebody reads the text while it is written. Otherwise an event may hold the text
            of a step, or of a second.
        deliver: Takes events at once, where tokens are read; ``None``: all of them are yielded.
    """

    settings: RoutingSettings
    small: Backend
    large: Backend
    messages: Sequence[Message]
    output: OutputSpec
    line: Line
    policy: RoutingPolicy | None = None
    plan: Plan = ROUTED
    streamed: bool = True
    deliver: Callable[[Event], None] | None = None

    @property
    def large_alone(self) -> str | None:
        """Why the large model writes all of it; ``None``: it is routed."""
        return self.plan.reason if self.plan.route == "large_alone" else None

    @property
    def models(self) -> dict[Author, Backend]:
        """Both models, by role; the small one first."""
        return {"small": self.small, "large": self.large}


CallHook = Callable[[Call, Events], Events]
"""From a call and its events to the events its caller gets: all of them, in order."""

call_hooks: list[CallHook] = []
"""Hooks of every call of this process; telemetry adds one."""


def hooked(call: Call, events: Events) -> Events:
    """The events of a call, through all hooks."""
    for hook in call_hooks:
        events = hook(call, events)
    return events
