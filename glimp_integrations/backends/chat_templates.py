"""Rendering conversations in this process, with a tokenizer or a given template."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, looks_like_control
from glimp_integrations.backends.plain_messages import known_roles
from glimp_integrations.backends.rendering import guarded, limited, off_loop, refuse_huge
from glimp_integrations.errors import ConfigError

__all__ = [
    "THINKING",
    "aapply",
    "apply",
    "arender",
    "arender_with_tokenizer",
    "control_tokens",
    "render",
    "render_with_tokenizer",
    "special_tokens",
    "token_ids",
    "tokenizer_template",
    "with_parsed_arguments",
]

THINKING = {"enable_thinking": True, "thinking": True}
"""Switches thinking on. Templates use one or the other name, and Jinja ignores unknown ones."""


def render(
    template: str | Callable[..., str],
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render a conversation with a given template.

    Args:
        template: Jinja source, which runs in a sandbox, or a function of the messages (and
            ``tools=...``, if there are any).
        messages: The conversation.
        template_kwargs: Passed to Jinja source.
        tools: Tools in OpenAI's format.

    Raises:
        ConfigError: The template is broken or refuses the conversation.
    """
    messages = known_roles(messages, template)
    if callable(template):
        return guarded(
            lambda: template(messages, tools=tools) if tools else template(messages),
            _template_name(template),
        )

    def text() -> str:
        pieces = _compiled(template).generate(
            messages=[with_parsed_arguments(m) for m in messages],
            tools=list(tools) or None,
            add_generation_prompt=True,
            **template_kwargs,
        )
        return "".join(limited(pieces))

    return guarded(text, _template_name(template))


async def arender(
    template: str | Callable[..., str],
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """:func:`render` off the event loop, within ``rendering.MAX_SECONDS``."""
    return await off_loop(
        lambda: render(template, messages, template_kwargs, tools), _template_name(template)
    )


def _template_name(template: str | Callable[..., str]) -> str:
    if isinstance(template, str):
        return "the chat template"
    return f"the function {getattr(template, '__name__', type(template).__name__)} (chat_template)"


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            refuse_huge(operator, left, right)
            return super().call_binop(context, operator, left, right)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The conventions of Hugging Face chat templates:
    # https://huggingface.co/docs/transformers/chat_templating_writing
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
    environment.filters["tojson"] = _to_json
    environment.filters["from_json"] = json.loads  # used by templates that llama.cpp ships
    return environment.from_string(source)


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own filter escapes HTML and sorts keys, but models were trained on plain JSON.
    return json.dumps(value, **{"ensure_ascii": False, **options})


def with_parsed_arguments(message: Message) -> dict[str, Any]:
    """A message whose tool calls hold their arguments as data instead of JSON text.

    Invalid JSON, which a model once wrote as arguments, stays the text that it is.
    """
    parsed = dict(message)
    if parsed.get("tool_calls"):
        parsed["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": _parse_arguments(call["function"]["arguments"]),
                },
            }
            for call in parsed["tool_calls"]
        ]
    return parsed


def _parse_arguments(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def render_with_tokenizer(
    tokenizer: str,
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Rendered:
    """Render a conversation with the chat template of a Hugging Face tokenizer, and count tokens.

    Args:
        tokenizer: Hugging Face id or folder.
        messages: The conversation.
        template_kwargs: Passed to the template.
        tools: Tools in OpenAI's format.

    Raises:
        ConfigError: transformers is missing, or the tokenizer has no template.
    """
    loaded = _load(tokenizer)
    text = apply(loaded, messages, template_kwargs, tools, name=f"tokenizer {tokenizer!r}")
    return Rendered(text, tokens=len(loaded.encode(text, add_special_tokens=False)))


async def arender_with_tokenizer(
    tokenizer: str,
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Rendered:
    """:func:`render_with_tokenizer` off the event loop, within ``rendering.MAX_SECONDS``."""
    await asyncio.to_thread(_load, tokenizer)  # may take long, and is no fault of the template
    return await off_loop(
        lambda: render_with_tokenizer(tokenizer, messages, template_kwargs, tools),
        f"the chat template of tokenizer {tokenizer!r}",
    )


def apply(
    tokenizer: Any,
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    name: str,
) -> str:
    """Render with the chat template of a loaded tokenizer.

    Args:
        tokenizer: A transformers tokenizer.
        messages: The conversation.
        template_kwargs: Passed to the template.
        tools: Tools in OpenAI's format.
        name: Name of the model or tokenizer, for the message of an error.

    Raises:
        ConfigError: There is no template, or it refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise ConfigError(f"{name} has no chat template: pass chat_template='<Jinja source>'")
    return guarded(
        lambda: tokenizer.apply_chat_template(
            [with_parsed_arguments(m) for m in known_roles(messages, tokenizer.chat_template)],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=True,
            **template_kwargs,
        ),
        f"the chat template of {name}",
    )


async def aapply(
    tokenizer: Any,
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    name: str,
) -> str:
    """:func:`apply` off the event loop, within ``rendering.MAX_SECONDS``."""
    return await off_loop(
        lambda: apply(tokenizer, messages, template_kwargs, tools, name=name),
        f"the chat template of {name}",
    )


def tokenizer_template(tokenizer: str) -> str | None:
    """Source of a tokenizer's chat template; ``None`` if it has none, or several."""
    template = _load(tokenizer).chat_template
    return template if isinstance(template, str) else None


def token_ids(tokenizer: str, text: str) -> list[int]:
    """The token ids of a text, with nothing added to it."""
    return list(_load(tokenizer).encode(text, add_special_tokens=False))


def control_tokens(tokenizer: str) -> set[str]:
    """The tokenizer's control tokens."""
    return special_tokens(_load(tokenizer))


def special_tokens(tokenizer: Any) -> set[str]:
    """The control tokens of a loaded tokenizer.

    These are the added tokens that are marked as special, and those that are written as common
    models write theirs. Others are runs of spaces, or tags of HTML.

    Args:
        tokenizer: A transformers tokenizer.
    """
    return {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1 and (token.special or looks_like_control(token.content))
    }


@functools.lru_cache(maxsize=8)
def _load(tokenizer: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(
            "rendering with a tokenizer needs transformers: pip install 'glimp-integrations[hf]'"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    # ImportError: a folder without a fast tokenizer needs further packages.
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"tokenizer {tokenizer!r} cannot be loaded: {error}") from error
