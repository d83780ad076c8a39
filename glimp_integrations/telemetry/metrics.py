"""The metrics of routed calls. Imported by :mod:`glimp_integrations.telemetry.instrumentor` only.

``gen_ai.*`` as in https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/.
"""

from __future__ import annotations

from opentelemetry.metrics import Meter

__all__ = ["Metrics"]

# Bucket boundaries. The conventions give those of seconds and tokens.
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [4**power for power in range(14)]
_NATS = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0]
_SHARES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0]


class Metrics:
    """The instruments, one in each attribute; units in UCUM, as the conventions require."""

    def __init__(self, meter: Meter) -> None:
        self.usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of a call, both models together.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a call.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.calls = meter.create_counter(
            "glimprouter.calls", "{call}", "Calls by how they ended: finished, error, cancelled."
        )
        self.tokens = meter.create_counter(
            "glimprouter.tokens", "{token}", "Generated tokens by model, kept or discarded."
        )
        self.steps = meter.create_counter("glimprouter.steps", "{step}", "Steps by author.")
        self.entropy = meter.create_histogram(
            "glimprouter.entropy",
            "{nat}",
            "H of glimpsed steps.",
            explicit_bucket_boundaries_advisory=_NATS,
        )
        self.share = meter.create_histogram(
            "glimprouter.large_step_share",
            "1",
            "Share of a call's glimpsed steps that the large model wrote.",
            explicit_bucket_boundaries_advisory=_SHARES,
        )
