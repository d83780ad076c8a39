"""From messages to the text a model continues.

Each model reads the conversation through its own chat template; what the two share is the text
behind it. Text from messages never becomes a control token: a literal such as ``<|im_end|>``
inside a message gets an invisible word joiner (U+2060) after its first character, so the
tokenizer reads it as the characters it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Backend, Message, Rendered
from glimp_integrations.errors import ConfigError

__all__ = ["Prompt", "build", "check_messages", "neutralise"]

# Tags that models are known to think in. The first is by far the commonest.
KNOWN_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
ROLES = ("system", "developer", "user", "assistant", "tool")
_JOINER = "\u2060"
_CANDIDATE = re.compile(r"<[^<>\s][^<>\n]{0,80}>|\[/?(?:[A-Z][A-Z_ ]{1,40}|[A-Za-z]+_?[A-Z0-9]+)\]")
# A page of HTML holds hundreds of distinct tags; asking a server about each would cost more
# than it protects. Beyond this many the backend's own rule decides without a request.
_MAX_QUESTIONS = 32


class Prompt:
    """A model's side of the conversation.

    Attributes:
        text: The rendered prompt.
        tokens: Its length, if known.
        tags: ``(open, close)`` found for this model, or ``None``.
        opened: The generation prompt already opened the think block.
    """

    def __init__(self, rendered: Rendered, template: str | None) -> None:
        self.text = rendered.text
        self.tokens = rendered.tokens
        self.tags, self.opened = _find_tags(rendered.text, template)

    def prefix(self, tags: tuple[str, str] | None) -> str:
        """The text in front of the reasoning: with the think block open if there is one."""
        if tags is None or self.text.rstrip().endswith(tags[0]):
            return self.text
        return f"{self.text}{tags[0]}\n"


def check_messages(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """Validate a conversation; a plain string is one user message.

    Raises:
        ConfigError: It is empty, or a message has no known role or no text.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    checked = [_check_message(index, message) for index, message in enumerate(messages)]
    if not checked:
        raise ConfigError("the conversation is empty: give at least one message")
    if all(not m["content"].strip() and not m.get("tool_calls") for m in checked):
        raise ConfigError("every message of the conversation is blank: write something to answer")
    return checked


def _check_message(index: int, message: Message) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message:
        raise ConfigError(
            f"message {index} is {message!r}; expected a mapping with 'role' and 'content'"
        )
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ConfigError(f"message {index} has role {role!r}; known roles: {', '.join(ROLES)}")
    if content is None:
        content = ""
    if isinstance(content, list):
        content = "".join(_block_text(index, block) for block in content)
    if not isinstance(content, str):
        raise ConfigError(
            f"message {index} has content of type {type(content).__name__}; expected text"
        )
    return {**message, "content": content}


def _block_text(index: int, block: Any) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise ConfigError(f"message {index} holds a text block without a 'text': {block!r}")
        return str(block["text"])
    raise ConfigError(
        f"message {index} holds a block of type {kind!r}; these models read text only"
    )


async def build(backend: Backend, messages: Sequence[Message]) -> Prompt:
    """Render a checked conversation for one model.

    Raises:
        ConfigError: It does not fit the model's context window, or has no template.
        BackendError: The server failed.
    """
    rendered = await backend.render([await _safe(backend, m) for m in messages])
    can = await backend.capabilities()
    if (
        rendered.tokens is not None
        and can.context_window is not None
        and rendered.tokens >= can.context_window
    ):
        raise ConfigError(
            f"the conversation has {rendered.tokens:,} tokens, but {backend.name} has a context "
            f"window of {can.context_window:,}: shorten it, or serve the model with a larger one"
        )
    return Prompt(rendered, can.template)


async def _safe(backend: Backend, message: Message) -> Message:
    """A message whose texts cannot be read as control tokens."""
    texts = {key: message[key] for key in ("content", "name") if message.get(key)}
    return {**message, **{key: await neutralise(backend, t) for key, t in texts.items()}}


async def neutralise(backend: Backend, text: str) -> str:
    """Make sure that no part of ``text`` is read as a control token of ``backend``."""
    literals = set(_CANDIDATE.findall(text))
    if not literals:
        return text
    few = len(literals) <= _MAX_QUESTIONS
    for literal in literals:
        control = await (
            backend.is_control(literal) if few else Backend.is_control(backend, literal)
        )
        if control:
            text = text.replace(literal, literal[0] + _JOINER + literal[1:])
    return text


def _find_tags(text: str, template: str | None) -> tuple[tuple[str, str] | None, bool]:
    """Look at the end of the generation prompt, then into the template's source."""
    tail = text.rstrip()
    for tags in KNOWN_TAGS:
        if tail.endswith(tags[0]):
            return tags, True
        if tail.endswith(tags[1]):
            return None, False  # the template closed an empty block: thinking is switched off
    for tags in KNOWN_TAGS:
        if template is not None and tags[1] in template:
            return tags, False
    return None, False
