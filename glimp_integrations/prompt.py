"""From messages to the text a model continues.

Each model reads the conversation through its own chat template; what the two share is the text
behind it. Text from messages never becomes a control token: a literal such as ``<|im_end|>``
inside a message gets an invisible word joiner (U+2060) after its first character, so the
tokenizer reads it as the characters it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from glimp_integrations.backends.base import Backend, Message, Rendered
from glimp_integrations.errors import ConfigError
from glimp_integrations.forms import plan
from glimp_integrations.forms.form import Form

__all__ = ["Prompt", "build", "check_messages", "neutralise", "shows_tools"]

# Tags that models are known to think in. The first is by far the commonest.
KNOWN_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT = Form()
"""Nothing is asked for but text."""
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
    checked = {**message, "content": content}
    if message.get("tool_calls"):
        checked["tool_calls"] = [_check_call(index, call) for call in message["tool_calls"]]
    return checked


def _check_call(index: int, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(
            f"message {index} holds the tool call {call!r}; expected "
            "{'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': JSON text}}"
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # Read and written anew, so that no escape hides a control token from :func:`neutralise`.
        with suppress(ValueError):
            arguments = json.loads(arguments, strict=False)
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


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


async def build(
    backend: Backend,
    messages: Sequence[Message],
    form: Form = TEXT,
    *,
    show_schema: bool = True,
    must_fit: bool = True,
) -> Prompt:
    """Render a checked conversation for one model.

    Args:
        backend: The model.
        messages: Checked by :func:`check_messages`.
        form: Tools and schema that are shown to it.
        show_schema: Whether it reads the schema.
        must_fit: Whether a conversation longer than the context window is an error.

    Raises:
        ConfigError: It does not fit the model's context window, or has no template.
        BackendError: The server failed.
    """
    can = await backend.capabilities()
    shown = plan.show_schema(messages, form) if show_schema else messages
    tools = [await _safe_tool(backend, tool) for tool in form.tools]
    spoken = [await _safe(backend, m) for m in shown]
    asked = tools or any(m["role"] == "tool" or m.get("tool_calls") for m in spoken)
    if asked and not await shows_tools(backend):
        spoken, tools = [*plan.write_tools_out(spoken, tools)], []
    rendered = await (backend.render(spoken, tools) if tools else backend.render(spoken))
    if (
        must_fit
        and rendered.tokens is not None
        and can.context_window is not None
        and rendered.tokens >= can.context_window
    ):
        index, longest = max(enumerate(messages), key=lambda item: len(item[1]["content"]))
        raise ConfigError(
            f"the conversation has {rendered.tokens:,} tokens, but {backend.name} has a context "
            f"window of {can.context_window:,} (its longest message is number {index}, of role "
            f"{longest['role']!r}, with {len(longest['content']):,} characters): shorten it, or "
            "serve the model with a larger window"
        )
    return Prompt(rendered, can.template)


async def shows_tools(backend: Backend) -> bool:
    """Whether the model's chat template shows tools to it.

    Where the server keeps its template to itself, two renderings of a short conversation tell,
    once.

    Raises:
        BackendError: The server failed.
    """
    can = await backend.capabilities()
    if can.template is not None:
        return plan.knows_tools(can.template)
    if backend.shows_tools is None:
        plain = await backend.render(_SHORT)
        try:
            shown = (await backend.render(_SHORT, [_SOME_TOOL])).text != plain.text
        except ConfigError:  # the template refuses tools
            shown = False
        with suppress(AttributeError):  # a backend that nothing can be written to is asked again
            backend.shows_tools = shown
        return shown
    return backend.shows_tools


_SHORT = ({"role": "user", "content": "Hello"},)
_SOME_TOOL = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


async def _safe(backend: Backend, message: Message) -> Message:
    """A message whose texts cannot be read as control tokens."""
    texts = {k: message[k] for k in ("content", "name", "tool_call_id") if message.get(k)}
    safe = {**message, **await _safe_texts(backend, texts)}
    if message.get("tool_calls"):
        safe["tool_calls"] = [
            {**await _safe_texts(backend, call), "function": function}
            for call in message["tool_calls"]
            for function in [await _safe_texts(backend, call["function"])]
        ]
    return safe


async def _safe_texts(backend: Backend, texts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: await neutralise(backend, value) if isinstance(value, str) else value
        for key, value in texts.items()
    }


async def _safe_tool(backend: Backend, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool whose descriptions, which may come from a stranger's server, are only text."""
    text = json.dumps(tool, ensure_ascii=False)
    safe = await neutralise(backend, text)
    found: dict[str, Any] = dict(tool) if safe == text else json.loads(safe)
    return found


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
