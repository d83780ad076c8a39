"""OpenTelemetry for routed calls (extra ``otel``).

::

    instrumentor.py  spans: one for every call, one for every step
    metrics.py       histograms and counters
    messages.py      conversations and replies as the GenAI conventions write them
"""

from __future__ import annotations

from glimp_integrations.telemetry.instrumentor import CAPTURE, GlimpInstrumentor

__all__ = ["CAPTURE", "GlimpInstrumentor"]
