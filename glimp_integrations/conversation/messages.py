"""Messages of a conversation, checked: known roles, text, and calls whose arguments are JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from glimp_integrations.backends.base import Message
from glimp_integrations.conversation.content_blocks import each_once, on_a_line, read_blocks
from glimp_integrations.errors import ConfigError
from glimp_integrations.unicode_text import check_text, without_surrogates

__all__ = ["ROLES", "check_messages"]

ROLES = ("system", "developer", "user", "assistant", "tool")


def check_messages(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """Validate a conversation; a plain string is one user message.

    Content in blocks becomes text (see :mod:`glimp_integrations.conversation.content_blocks`), and
    what is empty is left out: templates ask whether it is there.

    Raises:
        ConfigError: It is empty, or a message has no known role, no text, or half a character.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    checked = [m for index, given in enumerate(messages) for m in _check_message(index, given)]
    if not checked:
        raise ConfigError("the conversation is empty: give at least one message")
    if all(not m["content"].strip() and not m.get("tool_calls") for m in checked):
        raise ConfigError("every message of the conversation is blank: write something to answer")
    return checked


def _check_message(index: int, message: Message) -> list[dict[str, Any]]:
    """The message, after the tool results that its blocks held."""
    if not isinstance(message, Mapping) or "role" not in message:
        raise ConfigError(
            f"message {index} is {message!r}; expected a mapping with 'role' and 'content'"
        )
    check_text(f"message {index}", message)
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ConfigError(f"message {index} has role {role!r}; known roles: {', '.join(ROLES)}")
    if not isinstance(content, str | list | tuple | None):
        raise ConfigError(
            f"message {index} has content of type {type(content).__name__}; expected text"
        )
    blocks = [content] if isinstance(content, str) else content or ()
    content = read_blocks(f"message {index}", role, blocks)
    if role == "assistant" and isinstance(message.get("refusal"), str):
        content.text = on_a_line(content.text, message["refusal"])
    all_calls = each_once(message.get("tool_calls") or (), content.calls)
    calls = [_check_call(index, call) for call in all_calls]
    checked = {k: v for k, v in message.items() if k not in ("tool_calls", "refusal")}
    checked |= {"content": content.text, **({"tool_calls": calls} if calls else {})}
    results = [m for result in content.results for m in _check_message(index, result)]
    return [*results, *([] if results and not content.text and not calls else [checked])]


def _check_call(index: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(
            f"message {index} holds the tool call {call!r}; expected "
            "{'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': JSON text}}"
        )
    written = function.get("arguments") or {}
    arguments: Any = written
    if isinstance(written, str):
        # Read and written anew, so that no escape hides a control token from ``neutralise``.
        with suppress(ValueError):
            arguments = json.loads(written, strict=False)
        arguments = {} if arguments is None else arguments
    if arguments is not written or not isinstance(written, str):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"message {index} holds a call of {function['name']!r} whose arguments JSON "
                f"cannot write: {error}"
            ) from None
    # A model may have written half a character as a JSON escape.
    return {**call, "function": {**function, "arguments": without_surrogates(arguments)}}
