"""``extra_headers`` of a call: sent with its requests, and hidden from observers."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from llama_index_instrumentation import get_dispatcher
from pydantic import SecretStr

from glimp_integrations.backends.base import HEADERS
from glimp_integrations.errors import ConfigError

__all__ = ["EXTRA_HEADERS", "hides_headers", "send_headers"]

Method = TypeVar("Method", bound=Callable[..., Any])

EXTRA_HEADERS = "extra_headers"
"""The name of the argument."""

# RFC 9110, sections 5.1 and 5.5: a name is a token. A value holds no control characters, and
# neither begins nor ends with white space. Only ASCII is allowed, because the HTTP library writes
# ASCII, and its error shows a value that it cannot write.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")


@contextmanager
def send_headers(kwargs: Mapping[str, Any]) -> Iterator[list[str]]:
    """Let the requests that are made meanwhile carry a call's ``extra_headers``.

    Args:
        kwargs: The call's arguments.

    Yields:
        The headers' names.

    Raises:
        ConfigError: The argument is not a mapping of header names to texts.
    """
    headers = _checked(kwargs.get(EXTRA_HEADERS))
    token = HEADERS.set(headers)
    try:
        yield sorted(headers)
    finally:
        HEADERS.reset(token)


def _checked(headers: Any) -> dict[str, SecretStr]:
    # No message here shows a value, because it may be a secret.
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigError(
            f"{EXTRA_HEADERS} is of type {type(headers).__name__}; expected a mapping of names to "
            "texts"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{EXTRA_HEADERS} has the name {name!r}, which is not a header name")
        if not isinstance(value, SecretStr):
            raise ConfigError(
                f"header {name!r} of {EXTRA_HEADERS} is of type {type(value).__name__}; expected "
                "text"
            )
        if not _VALUE.fullmatch(value.get_secret_value()):
            raise ConfigError(
                f"header {name!r} of {EXTRA_HEADERS} holds what a header cannot: line breaks, "
                "other control characters, white space at an end, or characters beyond ASCII"
            )
    return dict(headers)


def hides_headers(method: Method) -> Method:
    """Decorator of a method whose observers must not see the values of headers.

    LlamaIndex passes the arguments of a call to spans, events and callbacks. So the values are
    wrapped in :class:`pydantic.SecretStr` before any of these see them, also before the span that
    ``LLM`` itself puts around its methods.
    """
    observed: Any = get_dispatcher(method.__module__).span(method)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(observed)
        async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = observed.__get__(self, type(self))  # observers are told the method's object
            return await bound(*map(_hide, args), **_hide(kwargs))

        return acall  # type: ignore[return-value]

    @functools.wraps(observed)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return observed.__get__(self, type(self))(*map(_hide, args), **_hide(kwargs))

    return call  # type: ignore[return-value]


def _hide(argument: Any) -> Any:
    """A copy with the values of headers wrapped, in arguments and in ``llm_kwargs`` among them."""
    if not isinstance(argument, dict):
        return argument
    copied = dict(argument)
    headers = copied.get(EXTRA_HEADERS)
    if isinstance(headers, Mapping):
        copied[EXTRA_HEADERS] = {
            name: SecretStr(value) if isinstance(value, str) else value
            for name, value in headers.items()
        }
    if "llm_kwargs" in copied:
        copied["llm_kwargs"] = _hide(copied["llm_kwargs"])
    return copied
