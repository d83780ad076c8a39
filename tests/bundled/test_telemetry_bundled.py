"""OpenTelemetry over a call of the bundled models."""

from __future__ import annotations

import pytest
from test_telemetry import recorded

from glimp_integrations import GlimpRouter

__all__ = ["recorded"]  # a fixture


def test_spans_and_metrics_of_a_real_call(router: GlimpRouter, recorded) -> None:
    result = router.run("What is 17 + 25? Think step by step.", max_tokens=40)
    (call,) = recorded.calls
    told, steps = result.trace, recorded.steps(call)
    assert call.attributes["gen_ai.request.model"] == f"{told.small_model}+{told.large_model}"
    assert call.attributes["gen_ai.usage.output_tokens"] == result.usage.output_tokens > 0
    assert [s.attributes["glimprouter.author"] for s in steps] == [r.author for r in told.steps]
    assert [s.attributes["glimprouter.step.kind"] for s in steps] == [r.kind for r in told.steps]
    for span, record in zip(steps, told.steps, strict=True):
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(record.seconds, abs=0.02)
        assert call.start_time <= span.start_time <= span.end_time <= call.end_time
    taken = sum(span.end_time - span.start_time for span in steps) / 1e9
    assert taken <= told.seconds + 0.02
    assert recorded.total("glimprouter.tokens", kept=True) == sum(r.tokens for r in told.steps)
    glimpsed = [r for r in told.steps if r.entropy is not None]
    assert sum(p.count for p in recorded.points("glimprouter.entropy")) == len(glimpsed) > 0
