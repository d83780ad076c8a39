"""Probes P5 (a chat's last message is continued exactly) and P7 (prompts are cached)."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing

from glimp_integrations.backends.base import CALL_LIMITS, Report, Request
from glimp_integrations.backends.http.probing import ProbeResult, ask, asked_in_chat
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.errors import BackendError

__all__ = ["cached", "continued"]

_P5, _P7 = "P5 continuation", "P7 cache"
_QUESTION = (
    "Write the numbers from one to eight as lower-case words. Write each as a paragraph of its "
    "own, with an empty line between them, and nothing else."
)
_BEGUN, _NEXT = "one\n\ntwo\n\nthree\n\n", "four"
_THOUGHT = "<think>\nI go through the words one by one.\n\none\n\ntwo\n\nthree\n\n"
_CLOSED = "<think>\nThis is easy.\n</think>\n\n" + _BEGUN
_WORDS = 500
# Noise on a network is smaller, a prompt of this length is computed in more.
_SECONDS = 0.2


async def continued(endpoint: ModelEndpoint) -> ProbeResult:
    """P5: ask for short continuations; only for services that continue a chat."""
    thinks = endpoint.thinks
    text, again = await _went_on(endpoint, _CLOSED if thinks else _BEGUN, thinks=thinks)
    problem = _problem(text)
    if problem is not None:
        return ProbeResult(
            _P5,
            "fail",
            f"{problem} (it wrote {text[:40]!r} behind {_BEGUN[-14:]!r})",
            "The model does not continue exact text here: use another model, or another service",
        )
    if again:
        return ProbeResult(
            _P5,
            "warn",
            f"the answer goes on, but the model thinks anew first ({again[:40]!r})",
            "Such thoughts are dropped, and billed",
        )
    if not thinks:
        return ProbeResult(_P5, "ok", "the text goes on where it ends")
    thought, _ = await _went_on(endpoint, _THOUGHT, thinks=True)
    if thought.startswith("</think>"):
        return ProbeResult(
            _P5,
            "warn",
            "the answer goes on where it ends, but a thought that was begun is closed",
            "This model cannot write hard steps of a thought, only the answer",
        )
    problem = _problem(thought)
    if problem is not None:
        return ProbeResult(
            _P5,
            "warn",
            f"the answer goes on where it ends; of a thought: {problem} "
            f"(it wrote {thought[:40]!r})",
            "Read a trace before you rely on the steps it writes",
        )
    return ProbeResult(_P5, "ok", "thought and answer go on where they end")


def _problem(text: str) -> str | None:
    """What is wrong with a continuation; ``None``: nothing."""
    if not text.strip():
        return "nothing was written"
    if "<think" in text or "</think" in text:
        return "a think tag was written into the text"
    if text.lstrip().lower().startswith("one"):
        return "the text is repeated from its beginning"
    if not text.lstrip().lower().startswith(_NEXT):
        return "the text does not go on"
    if text.startswith("\n"):
        return "the blank line at the end of the text was lost"
    return None


async def _went_on(endpoint: ModelEndpoint, text: str, *, thinks: bool) -> tuple[str, str]:
    """What is written behind a text, and thoughts that were had all the same."""
    prompt = asked_in_chat(endpoint, _QUESTION, text, thinks=thinks)
    _, choices = await ask(endpoint, prompt, logprobs=0, max_tokens=24)
    written = "".join(c.get("text") or "" for c in choices)
    return written, "".join(c.get("thought") or "" for c in choices)


async def cached(endpoint: ModelEndpoint) -> ProbeResult:
    """P7: the same long prompt twice; never a failure, as it costs only time."""
    # A word is some two tokens here, and the window may be small.
    size = min(_WORDS, (endpoint.context_window or 4 * _WORDS) // 4)
    # No other call has begun like this.
    words = " ".join([uuid.uuid4().hex, *(f"word {number}" for number in range(size // 2))])
    prompt = words
    if not endpoint.protocol.exact_text:
        prompt = asked_in_chat(endpoint, f"Remember this: {words}", "")
    try:
        (_, first), (told, second) = [await _timed(endpoint, prompt) for _ in range(2)]
    except BackendError as error:
        return ProbeResult(_P7, "warn", f"a prompt of {size} words was refused ({error.message})")
    if told:
        return ProbeResult(_P7, "ok", f"{told} tokens of a repeated prompt were cached")
    remedy = "Each step may read the whole text again: switch prefix caching on, if it is off"
    if told == 0:
        return ProbeResult(_P7, "warn", "no token of a repeated prompt was cached", remedy)
    if first - second > _SECONDS and second < first / 2:
        return ProbeResult(
            _P7, "ok", f"not told, but a repeated prompt took {second:.1f} s, not {first:.1f} s"
        )
    return ProbeResult(_P7, "warn", "not told, and a repeated prompt was no faster", remedy)


async def _timed(endpoint: ModelEndpoint, prompt: str) -> tuple[int | None, float]:
    """Cached tokens of a request for one token, and seconds to that token."""
    report, started, first = Report(), time.perf_counter(), None
    seconds, retries = CALL_LIMITS.get()
    request = Request(prompt, 1, temperature=0.0, timeout=seconds, max_retries=retries)
    async with aclosing(endpoint.completion(request, report)) as choices:
        async for _ in choices:
            first = first or time.perf_counter() - started
    return report.cached_tokens, first or time.perf_counter() - started
