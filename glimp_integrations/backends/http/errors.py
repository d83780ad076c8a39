"""Errors of the HTTP client, told in this project's words. One place for all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.base import HEADERS
from glimp_integrations.backends.retries import rest_in_words, retry_after
from glimp_integrations.errors import BackendError, UnsuitableEndpointError

__all__ = ["cleaned", "explained", "in_words", "speaks_of_context"]

_CONTEXT = re.compile(
    r"context[ _](size|length|window)|maximum context|exceed_context"
    # "took too long" is about time
    r"|(?<!took )(?<!taking )(?<!takes )too long"
    # TGI, and Together in its words
    r"|tokens \+ `?max_new_tokens|must have less than \d+ tokens",
    re.I,
)
_BROKEN = {
    "RemoteProtocolError",
    "ReadError",
    "WriteError",
    "CloseError",
    "DecodingError",
    # Of TLS, where the HTTP library passes them on as they are.
    "SSLError",
    "SSLEOFError",
    "EndOfStream",
}
_SECRET = 8  # characters at least: what is shorter is a word of the message itself
_HTTP_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2"}
# Servers tell errors in a few lines; what lies behind this many bytes is a page, or an attack.
_BODY_BYTES = 65536
_SHOWN_CHARACTERS = 600


def speaks_of_context(text: str) -> bool:
    """Whether an error's text says that the prompt does not fit."""
    return _CONTEXT.search(text) is not None


def in_words(error: object, depth: int = 4) -> str:
    """What a server sent as its error, as text: its message, and behind it what else it says.

    Args:
        error: Parsed JSON, of any shape: ``"text"``, ``{"message": ...}``, and either of them under
            ``"error"``, as in most bodies.
        depth: Objects to look into, one inside the other.
    """
    if isinstance(error, str):
        return error
    if not isinstance(error, Mapping) or not depth:
        return "" if error is None else _as_json(error)
    rest = {name: value for name, value in error.items() if value not in (None, "", {}, [])}
    name = next((name for name in ("error", "message", "detail") if name in rest), None)
    if name is None:
        return _as_json(rest) if rest else ""
    told = in_words(rest.pop(name), depth - 1)
    return f"{told} {_as_json(rest)}" if rest else told


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"({type(value).__name__})"


def _body(response: Any) -> str:
    """What the body of a refusal says.

    Read from its bytes: version 2 of the client shows the whole body as the exception's text,
    version 3 only the message of an error object.
    """
    try:
        data: bytes = response.content
    except Exception:  # it was not read, or cannot be unpacked
        return ""
    if len(data) <= _BODY_BYTES:
        try:
            return in_words(json.loads(data))
        except (ValueError, RecursionError):  # no JSON, or too much of it
            pass
    return data[:_BODY_BYTES].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who was asked for what; for messages."""

    model: str
    url: str
    secret: str | None
    route: str
    remedy: str
    key_variable: str | None

    @property
    def where(self) -> str:
        return f"{self.model} at {self.url}"

    def failed(self, text: str, **marks: Any) -> BackendError:
        return BackendError(f"{self.where} {text}", model=self.model, url=self.url, **marks)


@contextmanager
def explained(
    model: str,
    url: str,
    secret: str | None,
    *,
    route: str,
    remedy: str,
    key_variable: str | None = None,
) -> Iterator[None]:
    """Turn failures of the openai client and its HTTP layer into this project's errors.

    Args:
        model: Its name.
        url: Where it is asked, without secrets.
        secret: The key; it is taken out of every text.
        route: What is asked, such as ``"POST /v1/completions"``.
        remedy: What to do where there is no such route.
        key_variable: Environment variable this service's key may come from.
    """
    asked = _Asked(model, url, secret, route, remedy, key_variable)
    try:
        yield
    except Exception as error:
        told = _explain(error, asked)
        if told is None:
            raise
        # No cause and no context: their texts may hold the key or the URL's password.
        try:
            raise told from None
        finally:
            told.__context__ = None


def _explain(error: Exception, asked: _Asked) -> Exception | None:
    import openai

    failed, secret = asked.failed, asked.secret
    from_http = type(error).__module__.partition(".")[0] in _HTTP_PACKAGES
    # Inside a stream, the client's version 2 lets the HTTP library's own errors through.
    if isinstance(error, openai.APITimeoutError) or (
        from_http and type(error).__name__.endswith("Timeout")
    ):
        return failed(
            "did not answer in time: raise `timeout`, or check the server's load", retryable=True
        )
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        cause = cleaned(reason, secret)
        if type(reason).__name__ in _BROKEN:
            return failed(
                f"broke the connection ({type(reason).__name__}: {cause})", retryable=True
            )
        return failed(f"cannot be reached ({cause}): is the server running, and is base_url right?")
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        also = f", or set {asked.key_variable}" if asked.key_variable else ""
        return failed(
            f"refused the API key (HTTP {error.status_code}): pass a valid api_key for it{also}"
        )
    if isinstance(error, openai.APIStatusError):
        return _status(error, asked)
    if isinstance(error, openai.APIError):
        # The client knows the message of an error object only; some send a text, or a type.
        told = in_words(error.body) or str(error)
        full = speaks_of_context(told)
        return failed(
            f"sent an error in the stream: {cleaned(told, secret)}",
            retryable=not full,
            context_full=full,
        )
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return failed(
            f"sent what is no JSON ({cleaned(error, secret)}): is base_url the address of its API?",
            retryable=True,
        )
    if from_http:
        return failed(
            f"broke the connection ({type(error).__name__}: {cleaned(error, secret)})",
            retryable=True,
        )
    return None


def _status(error: Any, asked: _Asked) -> Exception:
    status, told = error.status_code, _body(error.response)
    body = cleaned(told or "it does not say why", asked.secret)
    if status in (404, 405, 501) and "model" not in told.lower():
        return UnsuitableEndpointError(
            probe="P1 rawness",
            server=asked.where,
            detail=f"does not know {asked.route} (HTTP {status}: {body})",
            remedy=asked.remedy,
        )
    if status == 404:
        return UnsuitableEndpointError(
            probe="P0 identity",
            server=asked.where,
            detail=f"does not serve this model (HTTP 404: {body})",
            remedy="Ask GET /v1/models for the names it serves",
        )
    if status in (400, 413, 422) and speaks_of_context(told):
        return asked.failed(
            f"has no room for this conversation ({body}): shorten it, or serve the model with a "
            "larger context window",
            context_full=True,
            status=status,
        )
    fault = "is overloaded or failed" if status == 429 or status >= 500 else "refused the request"
    rest = retry_after(error.response.headers)
    return asked.failed(
        f"{fault} (HTTP {status}: {body}){rest_in_words(rest)}",
        retryable=status == 429 or status >= 500,
        status=status,
        retry_after=rest,
    )


def cleaned(error: object, secret: str | None) -> str:
    """An error's text on one line, without the key, what the call's headers held, and escapes."""
    text = " ".join(str(error).split()) or type(error).__name__
    for hidden in (secret, *_words_of_headers()):
        if hidden:
            text = text.replace(hidden, "***")
    # Half a character pair (surrogate) cannot even be written to a log; other control characters
    # steer a terminal.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text[: _SHOWN_CHARACTERS + 1])
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _words_of_headers() -> Iterator[str]:
    """What may be a secret in the headers of the running call; a server may repeat it."""
    for value in (HEADERS.get() or {}).values():
        yield from (word for word in value.get_secret_value().split() if len(word) >= _SECRET)
