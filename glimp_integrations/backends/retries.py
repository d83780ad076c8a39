"""Whether a failed request is repeated, and after how long. Nothing here sends or waits.

Two places repeat, and both ask here: ``backends.http.sending`` a request of which nothing came
yet, ``runtime.model_stream`` a stream that broke, from the text kept so far. The HTTP client
repeats nothing by itself: its versions differ in how long a wait they take from a server (60 s,
120 s) and in what they do beyond it (fail, or ask again within a second).

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

__all__ = ["LONGEST_WAIT", "may_repeat", "pause", "rest_in_words", "retry_after"]

LONGEST_WAIT = 60.0
"""Seconds a server can make a call wait before one repetition. Rate limits are mostly counted by
the minute, so whoever comes back within one is let in. A longer wait (a spent quota, maintenance)
is not spent in silence: the caller may have another model, and hears of it at once."""

# Seconds before the first repetition; they double with every further one, up to the second figure.
_FIRST, _MOST = 0.5, 8.0

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def may_repeat(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a request that was answered with this status may be let in the next time.

    Args:
        status: HTTP status: time-outs, conflicts, rate limits and failures of the server pass;
            what it does not implement (501) it will not implement in a second.
        headers: Of the answer. OpenAI's ``x-should-retry`` goes before the status.
    """
    said = headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return status in (408, 409, 429) or (status >= 500 and status != 501)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """How long a server wants not to be asked, in seconds.

    Args:
        headers: Of its answer, names in lower case or found in any. ``Retry-After`` holds seconds
            or a date; ``retry-after-ms``, which some services send beside it, is more exact.
        now: The clock, seconds since the epoch; for dates.

    Returns:
        Seconds, 0 for a date that is over; ``None``: it does not say, or nothing that can be
        understood (a negative number, NaN, no number and no date).
    """
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if text is None or seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text.strip())
        # "-0000" is a time in UTC of which nothing else is known.
        then = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, then - now())


def pause(
    attempt: int, asked: float | None = None, draw: Callable[[], float] = random.random
) -> float | None:
    """Seconds to wait before a request is repeated; ``None``: longer than anyone waits here.

    What the server asked for goes before a guess. A guess is half fixed and half drawn, so that
    clients that failed together do not come back together.

    Args:
        attempt: How often the request has failed, from 1.
        asked: What :func:`retry_after` read, in seconds.
        draw: A number from 0 to 1.
    """
    if asked:
        return asked if asked <= LONGEST_WAIT else None
    whole = min(_MOST, _FIRST * 2.0 ** min(attempt - 1, 10))
    return whole * (1 + draw()) / 2


def rest_in_words(asked: float | None) -> str:
    """The server's wish, for messages; empty where there is none."""
    if not asked:
        return ""
    beyond = f", and no call waits more than {LONGEST_WAIT:.0f} s" if asked > LONGEST_WAIT else ""
    return f"; it asks for {asked:g} s of rest before the next request{beyond}"


def _number(text: str | None) -> float | None:
    """A number of the header, which knows no sign; servers write fractions all the same."""
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
