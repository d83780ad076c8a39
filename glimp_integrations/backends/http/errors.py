"""Translating errors of the HTTP client into this project's errors, all in one place.

Their messages name the model, the server and what to do, and contain no secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.base import HEADERS
from glimp_integrations.backends.retries import describe_pause, retry_after
from glimp_integrations.errors import BackendError, UnsuitableEndpointError

__all__ = ["describe", "redacted", "speaks_of_context", "translated"]

_CONTEXT = re.compile(
    r"context[ _](size|length|window)|maximum context|exceed_context"
    # "took too long" is about time
    r"|(?<!took )(?<!taking )(?<!takes )too long"
    # TGI, and Together with the same words
    r"|tokens \+ `?max_new_tokens|must have less than \d+ tokens",
    re.I,
)
_BROKEN = {
    "RemoteProtocolError",
    "ReadError",
    "WriteError",
    "CloseError",
    "DecodingError",
    # Errors of TLS, which the HTTP library passes on unchanged.
    "SSLError",
    "SSLEOFError",
    "EndOfStream",
}
# Words of headers with fewer characters may be ordinary words, and are not redacted.
_MIN_SECRET_CHARACTERS = 8
_HTTP_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2"}
# An error takes a few lines. A longer body is a web page or an attack, and only its beginning is
# read.
_BODY_BYTES = 65536
_SHOWN_CHARACTERS = 600


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


def _body(response: Any) -> str:
    """The error in the body of a response, as text.

    Read from the bytes, because the client's exceptions differ: version 2 has the whole body as
    its text, version 3 only the message of an error object.
    """
    try:
        data: bytes = response.content
    except Exception:  # it was not read, or cannot be decompressed
        return ""
    if len(data) <= _BODY_BYTES:
        try:
            return describe(json.loads(data))
        except (ValueError, RecursionError):  # not JSON, or nested too deeply
            pass
    return data[:_BODY_BYTES].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Target:
    """Which model and route a request went to; for messages."""

    model: str
    url: str
    secret: str | None
    route: str
    remedy: str
    key_variable: str | None

    @property
    def where(self) -> str:
        return f"{self.model} at {self.url}"

    def failure(self, text: str, **details: Any) -> BackendError:
        return BackendError(f"{self.where} {text}", model=self.model, url=self.url, **details)


@contextmanager
def translated(
    model: str,
    url: str,
    secret: str | None,
    *,
    route: str,
    remedy: str,
    key_variable: str | None = None,
) -> Iterator[None]:
    """Turn errors of the openai client and its HTTP layer into this project's errors.

    Args:
        model: Name of the model.
        url: Address of the server, without secrets.
        secret: The API key; it is removed from every text.
        route: The route that is requested, such as ``"POST /v1/completions"``.
        remedy: What to do if the route does not exist.
        key_variable: Environment variable that the key of this service may come from.

    Raises:
        UnsuitableEndpointError: The route does not exist, or the model is not served.
        BackendError: The request failed in another way.
    """
    target = _Target(model, url, secret, route, remedy, key_variable)
    try:
        yield
    except Exception as error:
        translation = _translate(error, target)
        if translation is None:
            raise
        # No cause and no context: their texts may hold the key or the URL's password.
        try:
            raise translation from None
        finally:
            translation.__context__ = None


def _translate(error: Exception, target: _Target) -> Exception | None:
    """This project's error for one of the client; ``None`` if it is not an error of the client."""
    import openai

    failure, secret = target.failure, target.secret
    from_http = type(error).__module__.partition(".")[0] in _HTTP_PACKAGES
    # Inside a stream, the client's version 2 lets the HTTP library's own errors through.
    if isinstance(error, openai.APITimeoutError) or (
        from_http and type(error).__name__.endswith("Timeout")
    ):
        return failure(
            "did not answer in time: raise `timeout`, or check the server's load", retryable=True
        )
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        cause = redacted(reason, secret)
        if type(reason).__name__ in _BROKEN:
            return failure(
                f"broke the connection ({type(reason).__name__}: {cause})", retryable=True
            )
        return failure(
            f"cannot be reached ({cause}): is the server running, and is base_url right?"
        )
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        variable_hint = f", or set {target.key_variable}" if target.key_variable else ""
        return failure(
            f"refused the API key (HTTP {error.status_code}): pass a valid api_key for "
            f"it{variable_hint}"
        )
    if isinstance(error, openai.APIStatusError):
        return _translate_status(error, target)
    if isinstance(error, openai.APIError):
        # The client reads only the message of an error object, but some servers send a text, or an
        # object without a message.
        text = describe(error.body) or str(error)
        full = speaks_of_context(text)
        return failure(
            f"sent an error in the stream: {redacted(text, secret)}",
            retryable=not full,
            context_full=full,
        )
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return failure(
            f"sent something that is not JSON ({redacted(error, secret)}): is base_url the address "
            "of its API?",
            retryable=True,
        )
    if from_http:
        return failure(
            f"broke the connection ({type(error).__name__}: {redacted(error, secret)})",
            retryable=True,
        )
    return None


def _translate_status(error: Any, target: _Target) -> Exception:
    """This project's error for a response with an error status."""
    status, text = error.status_code, _body(error.response)
    body = redacted(text or "it does not say why", target.secret)
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
    fault = "is overloaded or failed" if status == 429 or status >= 500 else "refused the request"
    requested_pause = retry_after(error.response.headers)
    return target.failure(
        f"{fault} (HTTP {status}: {body}){describe_pause(requested_pause)}",
        retryable=status == 429 or status >= 500,
        status=status,
        retry_after=requested_pause,
    )


def redacted(error: object, secret: str | None) -> str:
    """An error's text on one line, without the key, the call's headers and control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    for word in (secret, *_header_words()):
        if word:
            text = text.replace(word, "***")
    # A lone surrogate cannot even be written to a log, and control characters can take over a
    # terminal.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text[: _SHOWN_CHARACTERS + 1])
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _header_words() -> Iterator[str]:
    """Words in the headers of the running call that may be secret; a server may repeat them."""
    for value in (HEADERS.get() or {}).values():
        yield from (
            word for word in value.get_secret_value().split() if len(word) >= _MIN_SECRET_CHARACTERS
        )
