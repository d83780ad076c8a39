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
    from glimp_integrations.output.spec import OutputSpec
    from glimp_integrations.router import GlimpRouter
    from glimp_integrations.settings import Price, Prices, RoutingSettings
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
    "InvalidToolCall",
    "KindResolved",
    "ModelError",
    "ModelUsage",
    "OutputSpec",
    "Price",
    "Prices",
    "RoutedAnswer",
    "RoutingSettings",
    "StepDone",
    "StepRecord",
    "StepStarted",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "Trace",
    "UnsuitableEndpointError",
    "Usage",
    "__version__",
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
    "OutputSpec": "output.spec",
    **dict.fromkeys(["Price", "Prices", "RoutingSettings"], "settings"),
    "GlimpRouter": "router",
}


def __getattr__(name: str) -> Any:
    # On first use, so that the command line and the adapters start quickly.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
