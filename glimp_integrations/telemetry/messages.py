"""Conversations and replies as the GenAI conventions write them (JSON of roles and parts).

Schemas: ``gen-ai-input-messages.json`` and ``gen-ai-output-messages.json`` of the conventions,
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Nothing here needs OpenTelemetry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.trace.trace import RoutedAnswer
from glimp_integrations.trace.trace import finish_reason as openai_finish_reason

__all__ = ["finish_reason", "input_messages", "output_messages"]


def input_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as JSON text.

    Args:
        messages: Messages in the shape of OpenAI's API.
    """
    return json.dumps([_message(m) for m in messages], ensure_ascii=False, default=str)


def output_messages(result: RoutedAnswer, reason: str) -> str:
    """A reply as JSON text: reasoning, answer, tool calls, and the reason for its end.

    Args:
        result: The reply.
        reason: A value of :func:`finish_reason`, or ``"error"``.
    """
    parts: list[dict[str, Any]] = []
    if result.reasoning:
        parts.append({"type": "reasoning", "content": result.reasoning})
    if result.answer:
        parts.append({"type": "text", "content": result.answer})
    for call in result.tool_calls:
        parts.append(
            {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        )
    reply = {"role": "assistant", "parts": parts, "finish_reason": reason}
    return json.dumps([reply], ensure_ascii=False)


def finish_reason(result: RoutedAnswer) -> str:
    """Why a reply ended, in the words of the conventions.

    Returns:
        ``"stop"``, ``"length"`` or ``"tool_call"``.
    """
    reason = openai_finish_reason(result)
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
