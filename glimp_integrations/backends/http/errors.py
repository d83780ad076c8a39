"""Turning whatever goes wrong at a server into this project's errors, all in one place.

Nothing that a server sends can raise anything else: not a broken connection, not a body that is no
JSON, not a number, text or nesting that the code behind did not expect. The messages name the
model, the server and what to do, and contain no secrets.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.http.client import (
    GivenClientError,
    StatusError,
    TooLargeError,
    UnreachableError,
)
from glimp_integrations.backends.http.replies import ReplyError, parse
from glimp_integrations.backends.retries import describe_pause, retry_after
from glimp_integrations.errors import BackendError, GlimpError, UnsuitableEndpointError
from glimp_integrations.redact import public_url, redacted

__all__ = ["describe", "speaks_of_context", "translated"]

_CONTEXT = re.compile(
    r"context[ _](size|length|window)|maximum context|exceed_context"
    # "took too long" is about time
    r"|(?<!took )(?<!taking )(?<!takes )too long"
    # TGI, and Together with the same words
    r"|tokens \+ `?max_new_tokens|must have less than \d+ tokens",
    re.I,
)


def speaks_of_context(text: str) -> bool:
    """Whether an error's text says that the prompt does not fit the context window."""
    return _CONTEXT.search(text) is not None


def describe(error: object, depth: int = 4) -> str:
    """What a server sent as its error, as text: its message, followed by any other fields.

    Args:
        error: Parsed JSON of any shape: ``"text"``, ``{"message": ...}``, or either of them under
            ``"error"``, as in most bodies.
        depth: How many nested objects to look into.
    """
    if isinstance(error, str):
        return error
    if not isinstance(error, Mapping) or not depth:
        return "" if error is None else _as_json(error)
    rest = {name: value for name, value in error.items() if value not in (None, "", {}, [])}
    name = next((name for name in ("error", "message", "detail") if name in rest), None)
    if name is None:
        return _as_json(rest) if rest else ""
    message = describe(rest.pop(name), depth - 1)
    return f"{message} {_as_json(rest)}" if rest else message


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"({type(value).__name__})"


def _body(data: bytes) -> str:
    """The error in the body of a response, as text."""
    try:
        return describe(parse(data))
    except ReplyError:  # not JSON
        return data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Target:
    """Which model and route a request went to; for messages."""

    model: str
    url: str
    secrets: Callable[[], Iterable[str]]
    route: str
    remedy: str
    key_variable: str | None

    @property
    def where(self) -> str:
        return f"{self.model} at {self.url}"

    def shown(self, text: object) -> str:
        return redacted(text, self.secrets())

    def failure(self, text: str, **details: Any) -> BackendError:
        return BackendError(f"{self.where} {text}", model=self.model, url=self.url, **details)


@contextmanager
def translated(
    model: str,
    url: str,
    secrets: Callable[[], Iterable[str]],
    *,
    route: str,
    remedy: str,
    key_variable: str | None = None,
) -> Iterator[None]:
    """Turn every error of a request into one of this project's.

    Args:
        model: Name of the model.
        url: Address of the server, without secrets.
        secrets: Returns the texts that are removed from every text, see ``redact.secret_forms``.
        route: The route that is requested, such as ``"POST /v1/completions"``.
        remedy: What to do if the route does not exist.
        key_variable: Environment variable that the key of this service may come from.

    Raises:
        UnsuitableEndpointError: The route does not exist, or the model is not served.
        BackendError: The request failed in another way.
    """
    target = _Target(model, url, secrets, route, remedy, key_variable)
    try:
        yield
    except GlimpError:
        raise
    except Exception as error:
        translation = _translate(error, target)
        # No cause and no context: their texts may hold the key or the URL's password.
        try:
            raise translation from None
        finally:
            translation.__context__ = None


def _translate(error: Exception, target: _Target) -> Exception:
    """This project's error for any other one."""
    if isinstance(error, StatusError):
        return _translate_status(error, target)
    if isinstance(error, TimeoutError):
        return target.failure(
            "did not answer in time: raise `timeout`, or check the server's load",
            retryable=True,
            timed_out=True,
        )
    text = target.shown(error)
    if isinstance(error, GivenClientError):
        return target.failure(
            f"cannot be asked through the given client ({text}): look at what it is made with, "
            "such as a function for its api_key, or the http_client"
        )
    if isinstance(error, UnreachableError):
        return target.failure(
            f"cannot be reached ({text}): is the server running, and is base_url right?"
        )
    if isinstance(error, OSError | zlib.error):
        return target.failure(
            f"broke the connection ({type(error).__name__}: {text}): look into the server's log, "
            "and into that of a proxy in front of it",
            retryable=True,
        )
    if not isinstance(error, ReplyError | TooLargeError):
        text = f"{type(error).__name__}: {text}"
    return target.failure(
        f"sent something that cannot be read as a reply of {target.route} ({text}): is base_url "
        "the address of its API?",
        retryable=True,
    )


def _translate_status(error: StatusError, target: _Target) -> Exception:
    """This project's error for a response with an error status."""
    status, text = error.status, _body(error.body).strip()
    body = target.shown(text or "it does not say why")
    if status in (401, 403):
        variable_hint = f", or set {target.key_variable}" if target.key_variable else ""
        return target.failure(
            f"refused the API key (HTTP {status}): pass a valid api_key for it{variable_hint}",
            status=status,
        )
    if 300 <= status < 400:
        place = target.shown(public_url(error.headers.get("Location", "")))
        return target.failure(
            f"redirects requests to {place or 'nowhere'} (HTTP {status}), and none follows there, "
            "because the conversation would go to another address: if that one is yours, pass it "
            "as base_url",
            status=status,
        )
    if status in (404, 405, 501) and "model" not in text.lower():
        return UnsuitableEndpointError(
            probe="P1 rawness",
            server=target.where,
            detail=f"does not know {target.route} (HTTP {status}: {body})",
            remedy=target.remedy,
        )
    if status == 404:
        return UnsuitableEndpointError(
            probe="P0 identity",
            server=target.where,
            detail=f"does not serve this model (HTTP 404: {body})",
            remedy="Ask GET /v1/models for the names it serves",
        )
    if status in (400, 413, 422) and speaks_of_context(text):
        return target.failure(
            f"has no room for this conversation ({body}): shorten it, or serve the model with a "
            "larger context window",
            context_full=True,
            status=status,
        )
    overloaded = status == 429 or status >= 500
    requested_pause = retry_after(error.headers)
    if overloaded:
        words = (
            f"is overloaded or failed (HTTP {status}: {body}){describe_pause(requested_pause)}: "
            "try again later, raise `max_retries`, or look into the server's log"
        )
    else:
        words = (
            f"refused the request (HTTP {status}: {body}): change what it names, in the settings, "
            "in extra_body, or in the conversation"
        )
    return target.failure(words, retryable=overloaded, status=status, retry_after=requested_pause)
