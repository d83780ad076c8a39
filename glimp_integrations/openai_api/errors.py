"""Errors in the shape of OpenAI's API, and the status that each failure has there.

Source: OpenAI, API reference, "Error codes"; the fields are ``message``, ``type``, ``param``,
``code``. Headers: RFC 9110, section 10.2.3 (Retry-After); ``x-should-retry`` is what OpenAI's
clients go by.
"""

from __future__ import annotations

import logging
import math
import re
import traceback
from typing import Any

from pydantic import ValidationError

from glimp_integrations.adapter import token_usage
from glimp_integrations.backends.http.errors import speaks_of_context
from glimp_integrations.errors import (
    BackendError,
    ConfigError,
    GlimpError,
    PartialAnswer,
    UnsuitableEndpointError,
)
from glimp_integrations.method.sampling import FURTHER_SAMPLING
from glimp_integrations.openai_api.tokens import tokens_by_model
from glimp_integrations.strict_json import plain

__all__ = [
    "ApiError",
    "api_error",
    "from_validation",
    "internal_error",
    "invalid",
    "overloaded",
    "shutting_down",
]

_log = logging.getLogger(__name__)

# The core says so of a setting that one of the models does not have.
_LACKING = re.compile(
    rf"({'|'.join(FURTHER_SAMPLING)})=.*: the (?:small|large) model, .* has no such setting",
    re.DOTALL,
)


class ApiError(Exception):
    """A request that is refused, or that failed.

    Args:
        status: HTTP status.
        message: What was wrong, with which value, and what to do.
        code: OpenAI's short name of the kind of error, such as ``"model_not_found"``.
        param: The parameter that is wrong.
        retry_after: Seconds after which the same request may succeed.
        partial: What was written before the failure.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
        partial: PartialAnswer | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.partial = partial

    @property
    def type(self) -> str:
        """OpenAI's class of error, which follows from the status."""
        names = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        if self.status == 429:
            return "rate_limit_error"
        return names.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response: whether, and when, to ask again."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        elif self.status >= 500:
            # A client would repeat any of these by itself, and pay for both attempts.
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON data."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.partial is not None:
            error["partial"] = {
                "reasoning_content": self.partial.reasoning,
                "content": self.partial.answer,
                "usage": token_usage(self.partial.usage),
                "tokens": tokens_by_model(self.partial.trace, self.partial.usage),
                "cost": self.partial.trace.cost,
            }
        return {"error": plain(error)}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be served as it is written."""
    return ApiError(400, message, code=code, param=param)


def overloaded(message: str, retry_after: float, code: str = "rate_limit_exceeded") -> ApiError:
    """Too many requests, conversations or tokens."""
    return ApiError(429, message, code=code, retry_after=retry_after)


def shutting_down(partial: PartialAnswer | None = None) -> ApiError:
    """The server is ending."""
    return ApiError(
        503,
        "the server is shutting down: send the request again, to another server if there is one",
        code="server_shutting_down",
        retry_after=1,
        partial=partial,
    )


def internal_error(error: Exception, doing: str) -> ApiError:
    """A fault of this package; the log gets its place.

    Args:
        error: What was raised.
        doing: What was being done, in words.
    """
    # Not its text, which may quote the conversation.
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s while %s\n%s", type(error).__name__, doing, frames)
    return ApiError(500, "an internal error; the log says where", code="internal_error")


def from_validation(error: ValidationError) -> ApiError:
    """The first mistake in a request's body."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return invalid(f"the body is not JSON: {first['msg']}", code="invalid_json")
    # Which branch of a union was tried is pydantic's matter.
    path = [str(part) for part in first["loc"]]
    param = ".".join(path) or None
    missing = first["type"] == "missing"
    message = f"{param or 'the body'}: {first['msg']}"
    if isinstance(first["input"], int | float):  # anything else may be, or hold, a text of a user
        message += f" (got {first['input']!r})"
    return invalid(message, param, "missing_required_parameter" if missing else "invalid_value")


def api_error(error: GlimpError) -> ApiError:
    """The error that a client gets for one of this package's own."""
    partial, text = error.partial, str(error)
    if partial is not None:
        text = text.replace(" (the text written so far is in this error's .partial)", "")
        text += " (what was written so far is in error.partial)"
    if isinstance(error, ConfigError):
        if lacking := _LACKING.match(text):
            return ApiError(400, text, code="unsupported_parameter", param=lacking[1])
        too_long = speaks_of_context(text)
        return ApiError(
            400,
            text,
            code="context_length_exceeded" if too_long else "invalid_value",
            param="messages" if too_long else None,
        )
    if isinstance(error, UnsuitableEndpointError):
        return ApiError(502, text, code="model_unsuitable", partial=partial)
    if not isinstance(error, BackendError):
        return ApiError(500, text, code="internal_error", partial=partial)
    if error.context_full:
        return ApiError(
            400, text, code="context_length_exceeded", param="messages", partial=partial
        )
    if error.timed_out:
        return ApiError(504, text, code="model_timeout", partial=partial)
    if error.status in (429, 503):
        return ApiError(
            503,
            text,
            code="model_overloaded",
            partial=partial,
            # What is half written is paid for: a client is not told to ask for it once more.
            retry_after=None if partial is not None else error.retry_after or 5.0,
        )
    return ApiError(502, text, code="model_failed", partial=partial)
