"""The arguments that LlamaIndex passes to a call besides routing settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import SecretStr

from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import RoutingSettings
from llamaindex_glimp._extra_headers import EXTRA_HEADERS

__all__ = ["reads_first_block", "settings_of", "without_tool_arguments"]

# Settings for which None is not a value: with None, a caller leaves them as they are.
_NONE_IS_DEFAULT = {"stop"} | {
    name
    for name, field in RoutingSettings.model_fields.items()
    if type(None) not in get_args(field.annotation) and field.annotation is not Any
}
# The arguments that LlamaIndex's own FunctionCallingProgram takes out of ``llm_kwargs``.
_TOOL_ARGUMENTS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")


def settings_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments without those that ask only for what every call does anyway.

    Raises:
        ConfigError: More than one reply is asked for.
    """
    if kwargs.get("n") not in (None, 1):
        raise ConfigError(
            f"n is {kwargs['n']!r}, and a call gives one reply: leave n out, and call as often as "
            "you want replies"
        )
    return {
        name: value
        for name, value in kwargs.items()
        if name not in ("n", EXTRA_HEADERS) and not (value is None and name in _NONE_IS_DEFAULT)
    }


def without_tool_arguments(llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a structured prediction, without those about tools if there are no tools.

    LlamaIndex's own programs leave them out as well.
    """
    kwargs = dict(llm_kwargs or {})
    if not kwargs.get("tools"):
        for name in _TOOL_ARGUMENTS:
            kwargs.pop(name, None)
    return kwargs


def reads_first_block(kwargs: Mapping[str, Any]) -> bool:
    """Whether the caller is LlamaIndex's ``DocumentContextExtractor``.

    It reads nothing but the first block of a reply. It is recognised by its headers, because it
    asks every LLM for Anthropic's prompt caching.
    """
    headers = kwargs.get(EXTRA_HEADERS)
    beta = headers.get("anthropic-beta") if isinstance(headers, Mapping) else None
    return isinstance(beta, SecretStr) and beta.get_secret_value().startswith("prompt-caching")
