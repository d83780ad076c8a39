"""How requests are made. The choice changes time, never decisions or greedy text."""

from __future__ import annotations

from glimp_integrations.backends.base import Capabilities
from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import Strategy

__all__ = ["choose"]


def choose(wanted: Strategy, small: Capabilities) -> tuple[str, str]:
    """Pick a strategy and say why.

    ``fused`` wherever streams carry log-probabilities: over a network it wins by the requests it
    saves, and on one shared CPU it is as fast (0.97 to 1.01 of the other's time in
    ``benchmarks/arms.py``), because there a step ends with a cancelled stream in both.

    Returns:
        ``(strategy, reason)``; both go into the trace.

    Raises:
        ConfigError: ``fused`` was asked for and the small model's streams carry no
            log-probabilities, or ``in_process`` and it runs elsewhere.
    """
    if wanted == "in_process" and not small.in_process:
        raise ConfigError(
            "strategy 'in_process' needs a small model that transformers runs in this process "
            "(HuggingFaceBackend, or the short form 'hf:...'): use it, or 'auto'"
        )
    if wanted == "fused" and not small.streamed_logprobs and small.top_logprobs:
        raise ConfigError(
            "strategy 'fused' needs log-probabilities in the small model's stream, and this "
            "server sends none: use 'two_request' or 'auto'"
        )
    if wanted != "auto":
        return wanted, "asked for"
    if small.in_process:
        return "in_process", "the small model runs in this process: its stream pauses at every step"
    if not small.streamed_logprobs:
        return "two_request", "the small model's streams carry no log-probabilities"
    return "fused", "the small model streams log-probabilities: one request until it is unsure"
