"""Probes P5 (is the last message of a chat continued exactly?) and P7 (are prompts cached?)."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing

from glimp_integrations.backends.base import CALL_LIMITS, Report, Request
from glimp_integrations.backends.http.probing import ProbeResult, complete, probe_prompt
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.errors import BackendError

__all__ = ["check_cache", "check_continuation"]

_P5, _P7 = "P5 continuation", "P7 cache"
_QUESTION = (
    "Write the numbers from one to eight as lower-case words. Write each as a paragraph of its "
    "own, with an empty line between them, and nothing else."
)
_BEGINNING, _NEXT_WORD = "one\n\ntwo\n\nthree\n\n", "four"
_OPEN_THOUGHT = "<think>\nI go through the words one by one.\n\none\n\ntwo\n\nthree\n\n"
_CLOSED_THOUGHT = "<think>\nThis is easy.\n</think>\n\n" + _BEGINNING
_WORDS = 500
# Network noise is smaller than this, and computing a prompt of this length takes longer.
_MIN_SAVED_SECONDS = 0.2


async def check_continuation(endpoint: ModelEndpoint) -> ProbeResult:
    """Probe P5: try short continuations; only for services that continue a chat.

    Raises:
        BackendError: A request failed.
    """
    thinks = endpoint.thinks
    text, new_thought = await _continuation(
        endpoint, _CLOSED_THOUGHT if thinks else _BEGINNING, thinks=thinks
    )
    problem = _problem(text)
    if problem is not None:
        return ProbeResult(
            _P5,
            "fail",
            f"{problem} (it wrote {text[:40]!r} after {_BEGINNING[-14:]!r})",
            "The model does not continue exact text here: use another model, or another service",
        )
    if new_thought:
        return ProbeResult(
            _P5,
            "warn",
            f"the answer is continued, but the model reasons again first ({new_thought[:40]!r})",
            "Such thoughts are dropped, and billed",
        )
    if not thinks:
        return ProbeResult(_P5, "ok", "the text is continued where it ends")
    thought, _ = await _continuation(endpoint, _OPEN_THOUGHT, thinks=True)
    if thought.startswith("</think>"):
        return ProbeResult(
            _P5,
            "warn",
            "the answer is continued where it ends, but an open thought is closed",
            "This model cannot write hard steps of a thought, only the answer",
        )
    problem = _problem(thought)
    if problem is not None:
        return ProbeResult(
            _P5,
            "warn",
            f"the answer is continued where it ends; but for a thought: {problem} "
            f"(it wrote {thought[:40]!r})",
            "Read a trace before you rely on the steps it writes",
        )
    return ProbeResult(_P5, "ok", "thought and answer are continued where they end")


def _problem(text: str) -> str | None:
    """What is wrong with a continuation, in words; ``None`` if nothing is."""
    if not text.strip():
        return "nothing was written"
    if "<think" in text or "</think" in text:
        return "a think tag was written into the text"
    if text.lstrip().lower().startswith("one"):
        return "the text is repeated from its beginning"
    if not text.lstrip().lower().startswith(_NEXT_WORD):
        return "the text is not continued"
    if text.startswith("\n"):
        return "the blank line at the end of the text was lost"
    return None


async def _continuation(endpoint: ModelEndpoint, text: str, *, thinks: bool) -> tuple[str, str]:
    """The continuation of a text, and reasoning that was sent in addition to it."""
    prompt = probe_prompt(endpoint, _QUESTION, text, thinks=thinks)
    _, choices = await complete(endpoint, prompt, logprobs=0, max_tokens=24)
    written = "".join(c.get("text") or "" for c in choices)
    return written, "".join(c.get("thought") or "" for c in choices)


async def check_cache(endpoint: ModelEndpoint) -> ProbeResult:
    """Probe P7: send the same long prompt twice. Never a failure, because it only costs time.

    Raises:
        UnsuitableEndpointError: The route does not exist.
    """
    # A word has about two tokens here, and the context window may be small.
    size = min(_WORDS, (endpoint.context_window or 4 * _WORDS) // 4)
    # The random beginning makes sure that no earlier call has filled the cache with this prompt.
    words = " ".join([uuid.uuid4().hex, *(f"word {number}" for number in range(size // 2))])
    prompt = words
    if not endpoint.protocol.exact_text:
        prompt = probe_prompt(endpoint, f"Remember this: {words}", "")
    try:
        (_, first), (cached, second) = [await _timed(endpoint, prompt) for _ in range(2)]
    except BackendError as error:
        return ProbeResult(_P7, "warn", f"a prompt of {size} words was refused ({error.message})")
    if cached:
        return ProbeResult(_P7, "ok", f"{cached} tokens of a repeated prompt were cached")
    remedy = "Each step may read the whole text again: switch prefix caching on, if it is off"
    if cached == 0:
        return ProbeResult(_P7, "warn", "no token of a repeated prompt was cached", remedy)
    if first - second > _MIN_SAVED_SECONDS and second < first / 2:
        return ProbeResult(
            _P7, "ok", f"not reported, but a repeated prompt took {second:.1f} s, not {first:.1f} s"
        )
    return ProbeResult(_P7, "warn", "not reported, and a repeated prompt was no faster", remedy)


async def _timed(endpoint: ModelEndpoint, prompt: str) -> tuple[int | None, float]:
    """The cached tokens of a request for one token, and the seconds until that token came."""
    report, started, first = Report(), time.perf_counter(), None
    seconds, retries = CALL_LIMITS.get()
    request = Request(prompt, 1, temperature=0.0, timeout=seconds, max_retries=retries)
    async with aclosing(endpoint.completion(request, report)) as choices:
        async for _ in choices:
            first = first or time.perf_counter() - started
    return report.cached_tokens, first or time.perf_counter() - started
