"""Sending one request, with retries. When to retry is decided in ``backends.retries``."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from glimp_integrations.backends.http.client import Response, StatusError
from glimp_integrations.backends.retries import may_repeat, pause, retry_after
from glimp_integrations.errors import ConfigError

__all__ = ["RequestLimits", "as_json", "sent"]


class RequestLimits(NamedTuple):
    """The limits of one request.

    Attributes:
        seconds: How long one attempt may take; infinite for no limit.
        max_retries: How many more attempts there may be after the first.
    """

    seconds: float = math.inf
    max_retries: int = 0


@asynccontextmanager
async def sent(
    request: Callable[[], AbstractAsyncContextManager[Response]], limits: RequestLimits
) -> AsyncGenerator[Response]:
    """Send a request, and retry it where that may help; yields the response.

    Retrying is safe here, because a request that failed has not returned anything yet.

    Args:
        request: Makes one attempt.
        limits: Timeout and number of retries.

    Raises:
        Exception: What the last attempt raised: it failed for good, or the server asks for a
            longer pause than ``retries.LONGEST_WAIT`` or one attempt may take.
    """
    async with AsyncExitStack() as stack:
        attempt = 1
        while True:
            try:
                response = await stack.enter_async_context(request())
                break
            except Exception as error:
                wait = _wait(error, attempt, limits) if attempt <= limits.max_retries else None
                if wait is None:
                    raise
            await asyncio.sleep(wait)
            attempt += 1
        yield response


def _wait(error: Exception, attempt: int, limits: RequestLimits) -> float | None:
    """Seconds before the next attempt; ``None`` if there must not be one."""
    if isinstance(error, StatusError):
        if not may_repeat(error.status, error.headers):
            return None
        return pause(attempt, retry_after(error.headers), longest=limits.seconds)
    # The base of TimeoutError, and of all errors of a connection.
    return pause(attempt) if isinstance(error, OSError) else None


def as_json(body: Mapping[str, Any]) -> bytes:
    """A request's body.

    Raises:
        ConfigError: A text in it is no Unicode, or a value is none of JSON.
    """
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        begin = error.object[max(0, error.start - 20) : error.start]
        raise ConfigError(
            f"a text has half of a character ({error.object[error.start]!a}) after {begin!r}, "
            "which no request can carry: remove it, for example with "
            "text.encode('utf-8', 'replace').decode()"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"a request cannot be written as JSON ({error}): look at the values in extra_body and "
            "in the tools"
        ) from None
