"""From messages to the text a model continues.

Each model reads the conversation through its own chat template; what the two share is the text
after it. Text from messages never becomes a control token
(:mod:`glimp_integrations.conversation.control_tokens`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from glimp_integrations.backends.base import Backend, Capabilities, Message, Rendered
from glimp_integrations.conversation import earlier_reasoning, template_workarounds
from glimp_integrations.conversation.control_tokens import Safe
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.think_tags import find_tags
from glimp_integrations.output import instructions
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.settings import KeepReasoning

__all__ = [
    "Prompt",
    "build",
    "reasoning_name",
    "shows_tools",
]

_log = logging.getLogger(__name__)

ThinkTags = tuple[str, str] | Literal[False] | None
"""As in the settings: given, none, or to be found."""

TEXT = OutputSpec()
"""Nothing is asked for but text."""


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
        messages: Checked by :func:`~glimp_integrations.conversation.messages.check_messages`.
        output: Tools and schema that are shown to it.
        show_schema: Whether it reads the schema.
        must_fit: Whether a conversation longer than the context window is an error.
        keep_reasoning: Which reasoning of earlier messages it reads, if its template does.
        think_tags: As in the settings. A model that is not known to think in tags, or whose
            thinking is switched off, reads no earlier reasoning.

    Raises:
        ConfigError: It does not fit the model's context window, has no template, or earlier
            reasoning is not a text.
        BackendError: The server failed.
    """
    capabilities = await backend.capabilities()
    shown: Sequence[Message] = earlier_reasoning.kept(messages, keep_reasoning)
    shown = instructions.show_schema(shown, output) if show_schema else shown
    safe = await Safe.of(backend, [*output.tools, *shown], think_tags or None)
    tools: list[Mapping[str, Any]] = [safe.value(tool) for tool in output.tools]
    spoken = [safe.message(m) for m in shown]
    has_tools = tools or any(m["role"] == "tool" or m.get("tool_calls") for m in spoken)
    if has_tools and not await shows_tools(backend):
        spoken, tools = [*instructions.write_tools_out(spoken, tools)], []
    prompt = await _render(backend, spoken, tools, think_tags)
    if must_fit and not _fits(prompt, capabilities):
        index, longest = max(enumerate(messages), key=lambda item: len(item[1]["content"]))
        raise ConfigError(
            f"the conversation has {prompt.tokens:,} tokens, but {backend.name} has a context "
            f"window of {capabilities.context_window:,} (its longest message is number {index}, "
            f"of role {longest['role']!r}, with {len(longest['content']):,} characters): "
            "shorten it, or serve the model with a larger window"
        )
    return prompt


def _fits(prompt: Prompt, capabilities: Capabilities) -> bool:
    window = capabilities.context_window
    return prompt.tokens is None or window is None or prompt.tokens < window


async def _render(
    backend: Backend,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    think_tags: ThinkTags,
) -> Prompt:
    """Render with as much of the earlier reasoning as the model takes."""
    capabilities = await backend.capabilities()

    async def render_version(version: Sequence[Message]) -> Prompt:
        return Prompt(
            await template_workarounds.render(backend, version, tools), capabilities.template
        )

    name = None
    if think_tags is not False and any("reasoning_content" in m for m in messages):
        name = await reasoning_name(backend)
    *thoughtful, plain = earlier_reasoning.variants(messages, name)
    why = ""
    for version in thoughtful:
        try:
            prompt = await render_version(version)
        except ConfigError as error:  # the template refuses it
            why = str(error)
            continue
        except BackendError as error:
            if not error.context_full:
                raise
            why = str(error)
            break
        if not _fits(prompt, capabilities):
            why = f"it does not fit the context window of {capabilities.context_window:,} tokens"
            break
        if not (think_tags or prompt.tags):  # thinking is switched off, or was never on
            why = ""
            break
        if why:
            _left_out(backend, "beside text", why)
        return prompt
    prompt = await render_version(plain)
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
        capabilities, name = await backend.capabilities(), None
        if capabilities.template is None or earlier_reasoning.may_read(capabilities.template):
            try:
                name = earlier_reasoning.name_in(
                    (await backend.render(earlier_reasoning.PROBE)).text
                )
            except ConfigError:
                pass  # the template refuses calls
            except BackendError as error:
                if error.status is None or error.status >= 500:
                    raise  # else the server takes no such field
        with suppress(AttributeError):  # a backend that nothing can be written to is asked again
            backend.reasoning_name = name or ""
        return name
    return backend.reasoning_name or None


async def shows_tools(backend: Backend) -> bool:
    """Whether the model's chat template shows tools to it.

    Where the server keeps its template to itself, two renderings of a short conversation tell,
    once.

    Raises:
        BackendError: The server failed.
    """
    capabilities = await backend.capabilities()
    if capabilities.template is not None:
        return instructions.knows_tools(capabilities.template)
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
