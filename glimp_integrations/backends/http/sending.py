"""One request through the HTTP client, repeated where that may help. See ``backends.retries``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from glimp_integrations.backends.retries import may_repeat, pause, retry_after

if TYPE_CHECKING:
    import openai
    from openai import RequestOptions, Timeout

__all__ = ["RequestLimits", "sent"]


class RequestLimits(NamedTuple):
    """How long one attempt may take, and how many more there may be."""

    timeout: Timeout
    max_retries: int


async def sent(
    send: Callable[..., Awaitable[Any]], path: str, patience: RequestLimits, **what: Any
) -> Any:
    """Send a request, and again where that may help: nothing has come of it yet.

    Args:
        send: ``get`` or ``post`` of the openai client.
        path: Where to.
        patience: How long, and how often again.
        **what: What else ``send`` takes.

    Raises:
        openai.APIError: The last attempt failed, or the server wants more rest than anyone waits.
    """
    import openai

    # Options of the request: a client with options of its own would be made, and look at the
    # platform in a thread, for every one.
    options: RequestOptions = {"timeout": patience.timeout, "max_retries": 0}
    attempt = 1
    while True:
        try:
            return await send(path, cast_to=object, options=options, **what)
        except openai.APIError as error:
            wait = _wait(error, attempt) if attempt <= patience.max_retries else None
            if wait is None:
                raise
        await asyncio.sleep(wait)
        attempt += 1


def _wait(error: openai.APIError, attempt: int) -> float | None:
    """Seconds before the next attempt; ``None``: there is none."""
    import openai

    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        if not may_repeat(error.status_code, headers):
            return None
        return pause(attempt, retry_after(headers))
    return pause(attempt) if isinstance(error, openai.APIConnectionError) else None
