"""Conversations and replies as the GenAI conventions write them (JSON of roles and parts).

Schemas: ``gen-ai-input-messages.json`` and ``gen-ai-output-messages.json`` of the conventions,
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Nothing here needs OpenTelemetry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.trace.trace import RoutedAnswer, finish_reason

__all__ = ["asked", "ended", "replied"]


def asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as JSON text."""
    return json.dumps([_message(m) for m in messages], ensure_ascii=False, default=str)


def replied(result: RoutedAnswer, reason: str) -> str:
    """A reply as JSON text: reasoning, answer, calls, and why it ended."""
    parts: list[dict[str, Any]] = []
    if result.reasoning:
        parts.append({"type": "reasoning", "content": result.reasoning})
    if result.answer:
        parts.append({"type": "text", "content": result.answer})
    for call in result.tool_calls:
        said = {"id": call.id, "name": call.name, "arguments": call.arguments}
        parts.append({"type": "tool_call", **said})
    reply = {"role": "assistant", "parts": parts, "finish_reason": reason}
    return json.dumps([reply], ensure_ascii=False)


def ended(result: RoutedAnswer) -> str:
    """Why a reply ended, in the conventions' words: ``stop``, ``length`` or ``tool_call``."""
    reason = finish_reason(result)
    return "tool_call" if reason == "tool_calls" else reason


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.get("role") == "tool":
        parts.append(
            {
                "type": "tool_call_response",
                "id": message.get("tool_call_id"),
                "response": message.get("content"),
            }
        )
    elif message.get("content"):
        parts.append({"type": "text", "content": message["content"]})
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts.append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return {"role": message.get("role"), "parts": parts}
