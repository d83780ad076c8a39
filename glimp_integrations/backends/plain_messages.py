"""Messages as servers and chat templates can take them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message
from glimp_integrations.output import instructions

__all__ = ["broken_calls_as_text", "known_roles"]


def known_roles(messages: Sequence[Message], template: object) -> list[Message]:
    """The conversation with role ``developer`` as ``system``, unless the template knows it.

    Templates of Qwen2.5's kind leave out messages of roles they do not know; others write the
    name of the role as it is, which no model was trained on.

    Args:
        messages: The conversation.
        template: The template's source; anything else: not known.
    """
    if isinstance(template, str) and "developer" in template:
        return [*messages]
    return [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]


def broken_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Calls whose arguments are no JSON object, as text of their message, as they were written.

    Servers and many templates take arguments apart, and fail where there is nothing to take apart.
    """
    return [_with_text(m) if m.get("tool_calls") else m for m in messages]


def _with_text(message: Message) -> Message:
    whole = [call for call in message["tool_calls"] if _is_whole(call)]
    broken = [call for call in message["tool_calls"] if not _is_whole(call)]
    if not broken:
        return message
    (written,) = instructions.write_tools_out([{**message, "tool_calls": broken}], [])
    found = {k: v for k, v in message.items() if k != "tool_calls"} | {
        "content": written["content"]
    }
    return {**found, "tool_calls": whole} if whole else found


def _is_whole(call: Mapping[str, Any]) -> bool:
    try:
        return isinstance(json.loads(call["function"]["arguments"]), dict)
    except ValueError:
        return False
