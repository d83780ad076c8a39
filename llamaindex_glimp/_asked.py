"""What LlamaIndex passes to a call besides routing settings, and what becomes of it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

from llama_index_instrumentation import get_dispatcher
from pydantic import SecretStr

from glimp_integrations.backends.base import HEADERS
from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import RoutingSettings

__all__ = ["reads_first_block", "sending", "settings_of", "veiled", "without_tool_words"]

Method = TypeVar("Method", bound=Callable[..., Any])

_HEADERS = "extra_headers"
# Of these, None says that a caller has no wish of its own. Elsewhere it is a value.
_UNSAID = {"stop"} | {
    name
    for name, field in RoutingSettings.model_fields.items()
    if type(None) not in get_args(field.annotation) and field.annotation is not Any
}
# What core's FunctionCallingProgram takes out of ``llm_kwargs``.
_TOOL_WORDS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")
# RFC 9110, 5.1 and 5.5: a name is a token; a value holds no control characters, and neither begins
# nor ends with white space. The HTTP library writes ASCII, and shows a value it cannot write.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments without those that ask for what every call has anyway.

    Raises:
        ConfigError: More than one reply is asked for.
    """
    if given.get("n") not in (None, 1):
        raise ConfigError(
            f"n is {given['n']!r}, and a call gives one reply: leave n out, and call as often as "
            "you want replies"
        )
    passed = {"n", _HEADERS}
    return {
        name: value
        for name, value in given.items()
        if name not in passed and not (value is None and name in _UNSAID)
    }


def without_tool_words(llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a structured prediction, as core's own programs read them.

    Where there are no tools, nothing is called, and what is said of calls means nothing.
    """
    kwargs = dict(llm_kwargs or {})
    if not kwargs.get("tools"):
        for name in _TOOL_WORDS:
            kwargs.pop(name, None)
    return kwargs


def reads_first_block(given: Mapping[str, Any]) -> bool:
    """Whether core's ``DocumentContextExtractor`` asks, which reads nothing but the first block.

    Its headers tell: it asks every LLM for Anthropic's prompt caching.
    """
    headers = given.get(_HEADERS)
    beta = headers.get("anthropic-beta") if isinstance(headers, Mapping) else None
    return isinstance(beta, SecretStr) and beta.get_secret_value().startswith("prompt-caching")


@contextmanager
def sending(given: Mapping[str, Any]) -> Iterator[list[str]]:
    """Let the requests of a call carry its ``extra_headers``.

    Yields:
        The headers' names.

    Raises:
        ConfigError: They are no headers.
    """
    headers = _checked(given.get(_HEADERS))
    token = HEADERS.set(headers)
    try:
        yield sorted(headers)
    finally:
        HEADERS.reset(token)


def _checked(given: Any) -> dict[str, SecretStr]:
    # No message here holds a value: it may be a secret.
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{_HEADERS} is of type {type(given).__name__}; expected a mapping of names to texts"
        )
    for name, value in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{_HEADERS} has a name that is none of a header: {name!r}")
        if not isinstance(value, SecretStr):
            raise ConfigError(
                f"header {name!r} of {_HEADERS} is of type {type(value).__name__}; expected text"
            )
        if not _VALUE.fullmatch(value.get_secret_value()):
            raise ConfigError(
                f"header {name!r} of {_HEADERS} holds what a header cannot: line breaks, other "
                "control characters, white space at an end, or characters beyond ASCII"
            )
    return dict(given)


def veiled(method: Method) -> Method:
    """A method whose observers do not see the values of headers.

    LlamaIndex hands the arguments of a call to spans, events and callbacks. So the values are
    wrapped outside of all of these, the span included that ``LLM`` lays around its methods.
    """
    watched: Any = get_dispatcher(method.__module__).span(method)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(watched)
        async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = watched.__get__(self, type(self))  # observers are told whose method it is
            return await bound(*map(_veil, args), **_veil(kwargs))

        return acall  # type: ignore[return-value]

    @functools.wraps(watched)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return watched.__get__(self, type(self))(*map(_veil, args), **_veil(kwargs))

    return call  # type: ignore[return-value]


def _veil(given: Any) -> Any:
    """The same with the values of headers wrapped, in arguments and in arguments inside them."""
    if not isinstance(given, dict):
        return given
    found = dict(given)
    headers = found.get(_HEADERS)
    if isinstance(headers, Mapping):
        found[_HEADERS] = {
            name: SecretStr(value) if isinstance(value, str) else value
            for name, value in headers.items()
        }
    if "llm_kwargs" in found:
        found["llm_kwargs"] = _veil(found["llm_kwargs"])
    return found
