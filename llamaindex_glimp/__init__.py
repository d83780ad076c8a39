"""GlimpRouter for LlamaIndex: two models write one chain of thought, as one LLM."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamaindex_glimp.base import GlimpRouterLLM
    from llamaindex_glimp.events import (
        RoutedReplyEvent,
        RoutedStepEndEvent,
        RoutedStepInProgressEvent,
        RoutedStepStartEvent,
        RoutingEvent,
    )
    from llamaindex_glimp.printer import StepPrinter

__all__ = [
    "GlimpRouterLLM",
    "RoutedReplyEvent",
    "RoutedStepEndEvent",
    "RoutedStepInProgressEvent",
    "RoutedStepStartEvent",
    "RoutingEvent",
    "StepPrinter",
]

_HOMES = {"GlimpRouterLLM": "base", "StepPrinter": "printer"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'events')}"), name)
