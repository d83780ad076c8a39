"""Errors of the HTTP client, told in this project's words. One place for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from glimp_integrations.errors import BackendError, UnsuitableEndpointError

__all__ = ["explained", "public_url"]

_CONTEXT = re.compile(r"context (size|length|window)|maximum context|exceed_context|too long", re.I)
_BROKEN = {"RemoteProtocolError", "ReadError", "WriteError", "CloseError"}
_HTTP_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2"}


def public_url(url: str) -> str:
    """A URL without user name, password and query."""
    scheme, mark, rest = url.rpartition("://")
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


@contextmanager
def explained(model: str, url: str, secret: str | None) -> Iterator[None]:
    """Turn failures of the openai client and its HTTP layer into this project's errors."""
    try:
        yield
    except Exception as error:
        told = _explain(error, model, url, secret)
        if told is None:
            raise
        # No cause and no context: their texts may hold the key or the URL's password.
        try:
            raise told from None
        finally:
            told.__context__ = None


def _explain(error: Exception, model: str, url: str, secret: str | None) -> Exception | None:
    import openai

    where = f"{model} at {url}"

    def failed(text: str, **marks: Any) -> BackendError:
        return BackendError(f"{where} {text}", model=model, url=url, **marks)

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
        cause = _clean(reason, secret)
        if type(reason).__name__ in _BROKEN:
            return failed(
                f"broke the connection ({type(reason).__name__}: {cause})", retryable=True
            )
        return failed(f"cannot be reached ({cause}): is the server running, and is base_url right?")
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return failed(
            f"refused the API key (HTTP {error.status_code}): pass a valid api_key for it"
        )
    if isinstance(error, openai.APIStatusError):
        return _status(error, where, failed, secret)
    if isinstance(error, openai.APIError):
        return failed(f"sent an error in the stream: {_clean(error, secret)}", retryable=True)
    if from_http:
        return failed(
            f"broke the connection ({type(error).__name__}: {_clean(error, secret)})",
            retryable=True,
        )
    return None


def _status(error: Any, where: str, failed: Any, secret: str | None) -> Exception:
    status, body = error.status_code, _clean(error.message, secret)
    if status in (404, 405, 501) and "model" not in body.lower():
        return UnsuitableEndpointError(
            probe="P1 rawness",
            server=where,
            detail=f"speaks no text completions (HTTP {status}: {body})",
            remedy="Routing continues exact text and needs POST /v1/completions; chat-only "
            "services cannot continue a chain of thought",
        )
    if status == 404:
        return UnsuitableEndpointError(
            probe="P0 identity",
            server=where,
            detail=f"does not serve this model (HTTP 404: {body})",
            remedy="Ask GET /v1/models for the names it serves",
        )
    if status in (400, 413, 422) and _CONTEXT.search(body):
        told: BackendError = failed(
            f"has no room for this conversation ({body}): shorten it, or serve the model with a "
            "larger context window",
            context_full=True,
            status=status,
        )
        return told
    fault = "is overloaded or failed" if status == 429 or status >= 500 else "refused the request"
    result: BackendError = failed(
        f"{fault} (HTTP {status}: {body})",
        retryable=status == 429 or status >= 500,
        status=status,
    )
    return result


def _clean(error: object, secret: str | None) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if secret:
        text = text.replace(secret, "***")
    return text if len(text) <= 600 else f"{text[:600]}…"
