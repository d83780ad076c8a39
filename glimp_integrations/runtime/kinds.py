"""Which calls are of one kind: calls that take about the same, so that they can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from glimp_integrations.method.accounts import Outcome
from glimp_integrations.runtime.call import Call
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = ["RoutingCostWarning", "kind_of", "may_leave_routing", "outcome_of", "prompt_length"]

# Prompts up to so many characters; a prompt of another size takes another time to read.
_SIZES = (1_000, 4_000, 16_000, 64_000)
_DECIDING = (
    "threshold",
    "large_share",
    "policy",
    "first_large_steps",
    "entropy_estimator",
    "glimpse",
    "answer_by",
    "strategy",
    "draft",
)


class RoutingCostWarning(UserWarning):
    """Routing costs more than the large model alone; said once by each router."""


def may_leave_routing(settings: RoutingSettings) -> bool:
    """Whether the large model may write a call alone: it would write the answer anyway."""
    return (
        settings.route == "when_it_pays"
        and settings.routes
        and settings.random_share is None
        and settings.answer_by != "small"
        # Budgets keep the large model short.
        and settings.max_large_tokens is None
        and settings.max_cost is None
    )


def kind_of(call: Call) -> str:
    """A call's kind, in words."""
    output = call.output
    asked = "calls of tools" if output.tools else "text"
    asked = asked if output.schema is None else "JSON"
    after = "after a tool's result, " if call.messages[-1]["role"] == "tool" else ""
    length = prompt_length(call)
    size = next((f"prompts up to {top}" for top in _SIZES if length <= top), "longer prompts")
    deciding = repr([plain(getattr(call.settings, name)) for name in _DECIDING])
    return f"{asked}, {after}{size} characters #{hashlib.sha256(deciding.encode()).hexdigest()[:4]}"


def prompt_length(call: Call) -> int:
    """Characters of a conversation and its tools."""
    return sum(map(_length, call.messages)) + len(repr(call.output.tools))


def _length(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return len(content) if isinstance(content, str) else len(repr(message))


def outcome_of(call: Call, result: RoutedAnswer) -> Outcome:
    """What a call took."""
    steps = result.trace.steps
    return Outcome(
        route="routed" if call.large_alone is None else "large_alone",
        # Not the whole call: loading a model at the first one says nothing about the next.
        seconds=sum(step.seconds for step in steps),
        tokens=sum(step.tokens for step in steps),
        prompt=prompt_length(call),
        writing=result.trace.writing("large"),
        cost=result.trace.cost,
        alone_cost=result.trace.large_alone_cost,
        large_share=result.trace.large_step_share,
    )
