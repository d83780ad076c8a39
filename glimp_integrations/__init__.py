"""GlimpRouter (arXiv 2601.05110) as a drop-in LLM: the part without a framework."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glimp_integrations._version import __version__

if TYPE_CHECKING:
    from glimp_integrations.errors import (
        BackendError,
        ConfigError,
        GlimpError,
        ModelError,
        UnsuitableEndpointError,
    )
    from glimp_integrations.method.large_share import LargeShare
    from glimp_integrations.method.policy import (
        Glimpse,
        Glimpsed,
        RoutingPolicy,
        StepStart,
        Write,
        WrittenStep,
    )
    from glimp_integrations.output.spec import OutputSpec
    from glimp_integrations.router import GlimpRouter
    from glimp_integrations.runtime.kinds import RoutingCostWarning
    from glimp_integrations.settings import Price, Prices, RoutingSettings
    from glimp_integrations.share_files import load_share, save_share
    from glimp_integrations.trace.events import (
        Event,
        Finished,
        KindResolved,
        StepDone,
        StepStarted,
        TextDelta,
        ToolCallDelta,
    )
    from glimp_integrations.trace.records import (
        InvalidToolCall,
        ModelUsage,
        StepRecord,
        ToolCall,
        Usage,
    )
    from glimp_integrations.trace.trace import RoutedAnswer, Trace

__all__ = [
    "BackendError",
    "ConfigError",
    "Event",
    "Finished",
    "GlimpError",
    "GlimpRouter",
    "Glimpse",
    "Glimpsed",
    "InvalidToolCall",
    "KindResolved",
    "LargeShare",
    "ModelError",
    "ModelUsage",
    "OutputSpec",
    "Price",
    "Prices",
    "RoutedAnswer",
    "RoutingCostWarning",
    "RoutingPolicy",
    "RoutingSettings",
    "StepDone",
    "StepRecord",
    "StepStart",
    "StepStarted",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "Trace",
    "UnsuitableEndpointError",
    "Usage",
    "Write",
    "WrittenStep",
    "__version__",
    "load_share",
    "save_share",
]

_HOMES = {
    **dict.fromkeys(
        ["BackendError", "ConfigError", "GlimpError", "ModelError", "UnsuitableEndpointError"],
        "errors",
    ),
    **dict.fromkeys(
        [
            "Event",
            "Finished",
            "KindResolved",
            "StepDone",
            "StepStarted",
            "TextDelta",
            "ToolCallDelta",
        ],
        "trace.events",
    ),
    **dict.fromkeys(
        ["InvalidToolCall", "ModelUsage", "StepRecord", "ToolCall", "Usage"], "trace.records"
    ),
    **dict.fromkeys(["RoutedAnswer", "Trace"], "trace.trace"),
    **dict.fromkeys(
        ["Glimpse", "Glimpsed", "RoutingPolicy", "StepStart", "Write", "WrittenStep"],
        "method.policy",
    ),
    "LargeShare": "method.large_share",
    "OutputSpec": "output.spec",
    "RoutingCostWarning": "runtime.kinds",
    **dict.fromkeys(["load_share", "save_share"], "share_files"),
    **dict.fromkeys(["Price", "Prices", "RoutingSettings"], "settings"),
    "GlimpRouter": "router",
}


def __getattr__(name: str) -> Any:
    # On first use, so that the command line and the adapters start quickly.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
