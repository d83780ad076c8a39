"""From messages to the text a model continues.

Each model reads the conversation through its own chat template; what the two share is the text
behind it. Text from messages never becomes a control token: a literal such as ``<|im_end|>``
inside a message gets an invisible word joiner (U+2060) after its first character, so the
tokenizer reads it as the characters it is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from glimp_integrations.backends.base import Backend, Capabilities, Message, Rendered
from glimp_integrations.conversation import earlier_reasoning, template_workarounds
from glimp_integrations.conversation.content_blocks import each_once, on_a_line, read_blocks
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.think_tags import KNOWN_TAGS, find_tags
from glimp_integrations.output import constraints
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.settings import KeepReasoning

__all__ = [
    "Prompt",
    "build",
    "check_messages",
    "neutralise",
    "reasoning_name",
    "shows_tools",
]

_log = logging.getLogger(__name__)

ThinkTags = tuple[str, str] | Literal[False] | None
"""As in the settings: given, none, or to be found."""

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT = OutputSpec()
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
        self.tags, self.opened = find_tags(rendered.text, template)

    def prefix(self, tags: tuple[str, str] | None) -> str:
        """The text in front of the reasoning: with the think block open if there is one."""
        if tags is None or self.text.rstrip().endswith(tags[0]):
            return self.text
        return f"{self.text}{tags[0]}\n"


def check_messages(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """Validate a conversation; a plain string is one user message.

    Content in blocks becomes text (see :mod:`glimp_integrations.conversation.content_blocks`), and
    what is empty is left out: templates ask whether it is there.

    Raises:
        ConfigError: It is empty, or a message has no known role or no text.
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
    """The message, behind the tool results that stood in its blocks."""
    if not isinstance(message, Mapping) or "role" not in message:
        raise ConfigError(
            f"message {index} is {message!r}; expected a mapping with 'role' and 'content'"
        )
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ConfigError(f"message {index} has role {role!r}; known roles: {', '.join(ROLES)}")
    if not isinstance(content, str | list | tuple | None):
        raise ConfigError(
            f"message {index} has content of type {type(content).__name__}; expected text"
        )
    blocks = [content] if isinstance(content, str) else content or ()
    found = read_blocks(f"message {index}", role, blocks)
    if role == "assistant" and isinstance(message.get("refusal"), str):
        found.text = on_a_line(found.text, message["refusal"])
    told = each_once(message.get("tool_calls") or (), found.calls)
    calls = [_check_call(index, call) for call in told]
    checked = {k: v for k, v in message.items() if k not in ("tool_calls", "refusal")}
    checked |= {"content": found.text, **({"tool_calls": calls} if calls else {})}
    results = [m for result in found.results for m in _check_message(index, result)]
    return [*results, *([] if results and not found.text and not calls else [checked])]


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
        # Read and written anew, so that no escape hides a control token from :func:`neutralise`.
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
    return {**call, "function": {**function, "arguments": arguments}}


async def build(
    backend: Backend,
    messages: Sequence[Message],
    output: OutputSpec = TEXT,
    *,
    show_schema: bool = True,
    must_fit: bool = True,
    keep_reasoning: KeepReasoning = "tool_loop",
    think_tags: ThinkTags = None,
) -> Prompt:
    """Render a checked conversation for one model.

    Args:
        backend: The model.
        messages: Checked by :func:`check_messages`.
        output: Tools and schema that are shown to it.
        show_schema: Whether it reads the schema.
        must_fit: Whether a conversation longer than the context window is an error.
        keep_reasoning: Which reasoning of earlier messages it reads, if its template does.
        think_tags: As in the settings. A model that is not known to think in tags, or whose
            thinking is switched off, reads no earlier reasoning.

    Raises:
        ConfigError: It does not fit the model's context window, has no template, or earlier
            reasoning is no text.
        BackendError: The server failed.
    """
    can = await backend.capabilities()
    shown: Sequence[Message] = earlier_reasoning.kept(messages, keep_reasoning)
    shown = constraints.show_schema(shown, output) if show_schema else shown
    tools = [await _safe_tool(backend, tool) for tool in output.tools]
    spoken = [await _safe(backend, m, think_tags or None) for m in shown]
    asked = tools or any(m["role"] == "tool" or m.get("tool_calls") for m in spoken)
    if asked and not await shows_tools(backend):
        spoken, tools = [*constraints.write_tools_out(spoken, tools)], []
    prompt = await _render(backend, spoken, tools, think_tags)
    if must_fit and not _fits(prompt, can):
        index, longest = max(enumerate(messages), key=lambda item: len(item[1]["content"]))
        raise ConfigError(
            f"the conversation has {prompt.tokens:,} tokens, but {backend.name} has a context "
            f"window of {can.context_window:,} (its longest message is number {index}, of role "
            f"{longest['role']!r}, with {len(longest['content']):,} characters): shorten it, or "
            "serve the model with a larger window"
        )
    return prompt


def _fits(prompt: Prompt, can: Capabilities) -> bool:
    window = can.context_window
    return prompt.tokens is None or window is None or prompt.tokens < window


async def _render(
    backend: Backend,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    think_tags: ThinkTags,
) -> Prompt:
    """Render with as much of the earlier reasoning as the model takes."""
    can = await backend.capabilities()

    async def rendered(said: Sequence[Message]) -> Prompt:
        return Prompt(await template_workarounds.render(backend, said, tools), can.template)

    name = None
    if think_tags is not False and any("reasoning_content" in m for m in messages):
        name = await reasoning_name(backend)
    *thoughtful, plain = earlier_reasoning.variants(messages, name)
    why = ""
    for said in thoughtful:
        try:
            prompt = await rendered(said)
        except ConfigError as error:  # the template refuses it
            why = str(error)
            continue
        except BackendError as error:
            if not error.context_full:
                raise
            why = str(error)
            break
        if not _fits(prompt, can):
            why = f"it does not fit the context window of {can.context_window:,} tokens"
            break
        if not (think_tags or prompt.tags):  # thinking is switched off, or was never on
            why = ""
            break
        if why:
            _left_out(backend, "beside text", why)
        return prompt
    prompt = await rendered(plain)
    if why:
        _left_out(backend, "of this conversation", why)
    return prompt


def _left_out(backend: Backend, what: str, why: str) -> None:
    _log.warning("%s does not read the earlier reasoning %s: %s", backend.name, what, why)


async def reasoning_name(backend: Backend) -> str | None:
    """What the model's template, or its server, calls reasoning; ``None``: it reads none.

    One rendering of a short conversation tells, once; none is needed where the template's source
    does not speak of reasoning.

    Raises:
        BackendError: The server failed.
    """
    if backend.reasoning_name is None:
        can, found = await backend.capabilities(), None
        if can.template is None or earlier_reasoning.may_read(can.template):
            try:
                found = earlier_reasoning.name_in(
                    (await backend.render(earlier_reasoning.PROBE)).text
                )
            except ConfigError:
                pass  # the template refuses calls
            except BackendError as error:
                if error.status is None or error.status >= 500:
                    raise  # else the server takes no such field
        with suppress(AttributeError):  # a backend that nothing can be written to is asked again
            backend.reasoning_name = found or ""
        return found
    return backend.reasoning_name or None


async def shows_tools(backend: Backend) -> bool:
    """Whether the model's chat template shows tools to it.

    Where the server keeps its template to itself, two renderings of a short conversation tell,
    once.

    Raises:
        BackendError: The server failed.
    """
    can = await backend.capabilities()
    if can.template is not None:
        return constraints.knows_tools(can.template)
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


async def _safe(backend: Backend, message: Message, think_tags: tuple[str, str] | None) -> Message:
    """A message whose texts cannot be read as control tokens."""
    texts = {k: message[k] for k in ("content", "name", "tool_call_id") if message.get(k)}
    if "reasoning_content" in message:
        # No tag in a thought may end it, whether the tokenizer has a token for the tag or not.
        tags = dict.fromkeys(tag for pair in (*KNOWN_TAGS, think_tags or ()) for tag in pair)
        texts["reasoning_content"] = _defused(message["reasoning_content"], tags)
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
            text = _defused(text, (literal,))
    return text


def _defused(text: str, literals: Iterable[str]) -> str:
    """A text in which none of the literals stands as it is."""
    for literal in literals:
        text = text.replace(literal, literal[0] + _JOINER + literal[1:])
    return text
