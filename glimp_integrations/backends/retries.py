"""Whether a failed request is retried, and after how long. Nothing here sends or waits.

Two places retry requests, and both decide with these functions. ``backends.http.sending`` retries
a request that has returned nothing yet. ``runtime.model_stream`` retries a stream that broke off,
and continues from the text it has kept. The retries of the HTTP client are switched off, because
its versions differ in the longest pause they accept from a server (60 s or 120 s) and in what they
do beyond that (fail, or retry within a second).

Sources: RFC 9110, 10.2.3 (Retry-After); M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog (equal jitter).
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["LONGEST_WAIT", "describe_pause", "may_repeat", "pause", "retry_after"]

LONGEST_WAIT = 60.0
"""The longest pause before a retry that a server can ask for, in seconds.

Most rate limits are counted per minute, so a minute is enough for them. If a server asks for more
(because of a used-up quota, or maintenance), the call fails at once instead of waiting silently.
Then the caller can use another model."""

# Seconds before the first retry. They double with every further one, up to the maximum.
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 8.0

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def may_repeat(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a request that failed with this status may succeed the next time.

    That is so for timeouts, conflicts, rate limits and failures of the server, but not for a route
    that it does not implement (501).

    Args:
        status: HTTP status of the response.
        headers: Headers of the response. OpenAI's ``x-should-retry`` overrides the status.
    """
    should_retry = headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        return should_retry == "true"
    return status in (408, 409, 429) or (status >= 500 and status != 501)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """The pause that a server asks for, in seconds.

    Args:
        headers: Headers of the response, with names in lower case or looked up in any case.
            ``Retry-After`` is a number of seconds or a date. Some services also send
            ``retry-after-ms``, which is more exact.
        now: The clock, in seconds since the epoch; needed for dates.

    Returns:
        Seconds, 0 for a date in the past. ``None`` if the headers do not say, or have an invalid
        value (a negative number, NaN, neither a number nor a date).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if text is None or seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text.strip())
        # A date with the zone "-0000" is in UTC, and is parsed without a zone.
        then = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, then - now())


def pause(
    attempt: int,
    requested: float | None = None,
    draw: Callable[[], float] = random.random,
    *,
    longest: float | None = None,
) -> float | None:
    """Seconds to wait before a retry; ``None`` if the request must not be retried.

    A pause that the server asks for is used as it is, up to :data:`LONGEST_WAIT` and to what the
    caller would wait for an answer. Otherwise the pause grows with every attempt. Half of it is
    random, so that clients that failed at the same time do not retry at the same time.

    Args:
        attempt: How often the request has failed, from 1.
        requested: The pause the server asks for, from :func:`retry_after`, in seconds.
        draw: Returns a random number from 0 to 1.
        longest: The timeout of a request, in seconds; ``None`` for no limit.
    """
    if requested:
        allowed = LONGEST_WAIT if longest is None else min(LONGEST_WAIT, longest)
        return requested if requested <= allowed else None
    most = min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))
    return most * (1 + draw()) / 2


def describe_pause(requested: float | None) -> str:
    """The pause that the server asks for, in words to append to a message; empty if none."""
    if not requested:
        return ""
    limit = (
        f", and no call waits more than {LONGEST_WAIT:.0f} s" if requested > LONGEST_WAIT else ""
    )
    return f"; it asks for a pause of {requested:g} s before the next request{limit}"


def _number(text: str | None) -> float | None:
    """A number in a header. The standard has whole seconds only, but servers send fractions."""
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
