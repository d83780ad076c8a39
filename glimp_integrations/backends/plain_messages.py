"""Rewriting messages so that servers and chat templates understand them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message
from glimp_integrations.output import instructions

__all__ = ["broken_calls_as_text", "known_roles"]


def known_roles(messages: Sequence[Message], template: object) -> list[Message]:
    """The conversation with role ``developer`` as ``system``, unless the template knows it.

    Some templates, such as Qwen2.5's, leave out messages with roles they do not know. Others write
    the name of the role into the prompt, which the model was not trained on.

    Args:
        messages: The conversation.
        template: The template's source. Any other object means that the source is unknown.
    """
    if isinstance(template, str) and "developer" in template:
        return [*messages]
    return [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]


def broken_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """The conversation with invalid tool calls written into the text of their messages.

    A call is invalid if its arguments are not a JSON object. Servers and many templates parse the
    arguments, and would fail on such a call.
    """
    return [_with_text(m) if m.get("tool_calls") else m for m in messages]


def _with_text(message: Message) -> Message:
    """A message with its invalid calls as text."""
    valid = [call for call in message["tool_calls"] if _is_valid(call)]
    broken = [call for call in message["tool_calls"] if not _is_valid(call)]
    if not broken:
        return message
    (as_text,) = instructions.write_tools_out([{**message, "tool_calls": broken}], [])
    rest = {k: v for k, v in message.items() if k != "tool_calls"} | {"content": as_text["content"]}
    return {**rest, "tool_calls": valid} if valid else rest


def _is_valid(call: Mapping[str, Any]) -> bool:
    try:
        return isinstance(json.loads(call["function"]["arguments"]), dict)
    except ValueError:
        return False
