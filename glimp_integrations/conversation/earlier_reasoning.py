"""Earlier reasoning of a conversation: which of it a model reads again, and under which name.

Models that are trained to think between tool calls want the thoughts that led to a call back
while they work on its result. Their chat templates read them from the assistant's messages. The
name differs: ``reasoning_content`` (Qwen3, DeepSeek-V3.2, GLM-4.5, Kimi-K2-Thinking, MiniMax-M2,
Nemotron 3), ``thinking`` (gpt-oss, LFM2.5). So does what servers take: newer versions of vLLM drop
``reasoning_content`` and hand the template what came as ``reasoning``
(https://github.com/vllm-project/vllm/issues/38488); llama.cpp takes ``reasoning_content`` alone and
renames it for templates that read ``thinking`` (``common/chat.cpp``, ``common/parsers``). No table
keeps up with that: one rendering of a short conversation shows what arrives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message
from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import KeepReasoning

__all__ = ["PROBE", "kept", "may_read", "name_in", "variants"]

NAMES = ("reasoning_content", "reasoning", "thinking")
"""What templates and servers call it. Here it is the first."""

_MARKS = {name: f"kept{number}thought" for number, name in enumerate(NAMES)}
# Without text beside the call: gpt-oss' template refuses both in one message. Mistral's templates
# want identifiers of nine letters and digits.
PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "Hello"},
    {
        "role": "assistant",
        "content": "",
        **_MARKS,
        "tool_calls": [
            {
                "id": "clock0001",
                "type": "function",
                "function": {"name": "clock", "arguments": "{}"},
            }
        ],
    },
    {"role": "tool", "name": "clock", "tool_call_id": "clock0001", "content": "noon"},
)
"""A tool loop whose thought stands under every name."""


def may_read(template: str) -> bool:
    """Whether a template's source speaks of reasoning at all."""
    return re.search("reasoning|thinking", template) is not None


def name_in(rendered: str) -> str | None:
    """The name under which the thought of :data:`PROBE` arrived; ``None``: it did not."""
    return next((name for name, mark in _MARKS.items() if mark in rendered), None)


def kept(messages: Sequence[Message], keep: KeepReasoning) -> list[dict[str, Any]]:
    """A conversation with the reasoning that may be passed on, as ``reasoning_content``.

    Args:
        messages: The conversation; reasoning may stand under any of the three names.
        keep: ``"tool_loop"``: of the assistant's messages after the last one of the user;
            ``"always"``: of all of them; ``"never"``: none.

    Raises:
        ConfigError: Reasoning is not a text.
    """
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    begin = {"tool_loop": users[-1] + 1 if users else 0, "always": 0, "never": len(messages)}[keep]
    versions = []
    for index, message in enumerate(messages):
        plain = {name: value for name, value in message.items() if name not in NAMES}
        if index >= begin and message["role"] == "assistant":
            thought = _thought(index, message)
            plain |= {NAMES[0]: thought} if thought else {}
        versions.append(plain)
    return versions


def _thought(index: int, message: Mapping[str, Any]) -> str | None:
    """The first text under one of the names that is not blank."""
    for name in NAMES:
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise ConfigError(
                f"message {index} has {name!r} of type {type(value).__name__}; expected text"
            )
        if value and value.strip():
            return value
    return None


def variants(messages: Sequence[Message], name: str | None) -> list[list[dict[str, Any]]]:
    """The conversation as a template may take it, the one with most of the reasoning first.

    gpt-oss' template refuses a thought beside text in a message with calls; so the second leaves
    out the thoughts of messages that hold text, and the last all of them.

    Args:
        messages: From :func:`kept`.
        name: What the template reads; ``None``: nothing.
    """
    thoughtful = [NAMES[0] in message for message in messages]
    wordless = [
        has and not message["content"].strip()
        for has, message in zip(thoughtful, messages, strict=True)
    ]
    plain = [{k: v for k, v in message.items() if k != NAMES[0]} for message in messages]
    if name is None:
        return [plain]
    return [
        *(
            [
                {**bare, name: message[NAMES[0]]} if shown else bare
                for bare, message, shown in zip(plain, messages, chosen, strict=True)
            ]
            for chosen in dict.fromkeys((tuple(thoughtful), tuple(wordless)))
            if any(chosen)
        ),
        plain,
    ]
