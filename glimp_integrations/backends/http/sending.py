"""Sending one request, with retries. When to retry is decided in ``backends.retries``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from glimp_integrations.backends.retries import may_repeat, pause, retry_after

if TYPE_CHECKING:
    import openai
    from openai import RequestOptions, Timeout

__all__ = ["RequestLimits", "send"]


class RequestLimits(NamedTuple):
    """The limits of one request.

    Attributes:
        timeout: How long one attempt may take.
        max_retries: How many more attempts there may be after the first.
    """

    timeout: Timeout
    max_retries: int


async def send(
    method: Callable[..., Awaitable[Any]], path: str, limits: RequestLimits, **arguments: Any
) -> Any:
    """Send a request, and retry it where that may help.

    Retrying is safe here, because a request that failed has not returned anything yet.

    Args:
        method: ``get`` or ``post`` of the openai client.
        path: The path or URL.
        limits: Timeout and number of retries.
        **arguments: Further arguments of ``method``.

    Raises:
        openai.APIError: The last attempt failed, or the server asks for a longer pause than
            ``retries.LONGEST_WAIT``.
    """
    import openai

    # Passed as options of the request. ``client.with_options`` would make a new client for every
    # request, and each new client inspects the platform in a thread.
    options: RequestOptions = {"timeout": limits.timeout, "max_retries": 0}
    attempt = 1
    while True:
        try:
            return await method(path, cast_to=object, options=options, **arguments)
        except openai.APIError as error:
            wait = _wait(error, attempt) if attempt <= limits.max_retries else None
            if wait is None:
                raise
        await asyncio.sleep(wait)
        attempt += 1


def _wait(error: openai.APIError, attempt: int) -> float | None:
    """Seconds before the next attempt; ``None`` if there must not be one."""
    import openai

    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        if not may_repeat(error.status_code, headers):
            return None
        return pause(attempt, retry_after(headers))
    return pause(attempt) if isinstance(error, openai.APIConnectionError) else None
