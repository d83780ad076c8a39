"""Tokens by model, which OpenAI's ``usage`` does not tell apart."""

from __future__ import annotations

from typing import Any

from glimp_integrations.trace.records import TraceData, Usage

__all__ = ["tokens_by_model"]


def tokens_by_model(trace: TraceData, usage: Usage) -> dict[str, Any]:
    """What each model wrote and took, as JSON data.

    Args:
        trace: Of the call, or of its part before a failure.
        usage: Likewise.

    Returns:
        For ``small`` and ``large``: ``kept`` tokens that are part of the reply, and ``input``,
        ``cached`` (part of the input) and ``output`` tokens of all its requests.
    """
    models = {"small": usage.small, "large": usage.large}
    return {
        author: {
            "kept": sum(step.tokens for step in trace.steps if step.author == author),
            "input": model.input_tokens,
            "cached": model.cached_tokens,
            "output": model.output_tokens,
        }
        for author, model in models.items()
    }
