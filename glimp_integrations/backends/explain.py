"""Errors of the HTTP client, told in this project's words. One place for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from glimp_integrations.retries import retry_after, told

__all__ = ["cleaned", "explained", "public_url", "speaks_of_context"]

_CONTEXT = re.compile(
    r"context (size|length|window)|maximum context|exceed_context|too long"
    # TGI, and Together in its words
    r"|tokens \+ `?max_new_tokens|must have less than \d+ tokens",
    re.I,
)
_BROKEN = {"RemoteProtocolError", "ReadError", "WriteError", "CloseError"}
_HTTP_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2"}


def public_url(url: str) -> str:
    """A URL without user name, password and query."""
    scheme, mark, rest = url.rpartition("://")
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def speaks_of_context(text: str) -> bool:
    """Whether an error's text says that the prompt does not fit."""
    return _CONTEXT.search(text) is not None


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
        # The client knows the message of an error object only; some send a text.
        told = error.body if isinstance(error.body, str) else error
        text = cleaned(told, secret)
        full = speaks_of_context(text)
        return failed(f"sent an error in the stream: {text}", retryable=not full, context_full=full)
    if from_http:
        return failed(
            f"broke the connection ({type(error).__name__}: {cleaned(error, secret)})",
            retryable=True,
        )
    return None


def _status(error: Any, asked: _Asked) -> Exception:
    status, body = error.status_code, cleaned(error.message, asked.secret)
    if status in (404, 405, 501) and "model" not in body.lower():
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
    if status in (400, 413, 422) and speaks_of_context(body):
        return asked.failed(
            f"has no room for this conversation ({body}): shorten it, or serve the model with a "
            "larger context window",
            context_full=True,
            status=status,
        )
    fault = "is overloaded or failed" if status == 429 or status >= 500 else "refused the request"
    rest = retry_after(error.response.headers)
    return asked.failed(
        f"{fault} (HTTP {status}: {body}){told(rest)}",
        retryable=status == 429 or status >= 500,
        status=status,
        retry_after=rest,
    )


def cleaned(error: object, secret: str | None) -> str:
    """An error's text on one line, without the key."""
    text = " ".join(str(error).split()) or type(error).__name__
    if secret:
        text = text.replace(secret, "***")
    return text if len(text) <= 600 else f"{text[:600]}…"
