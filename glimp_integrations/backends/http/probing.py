"""Small requests by which probes ask an endpoint, and the row a probe reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from glimp_integrations.backends.base import CALL_LIMITS, Report, Request
from glimp_integrations.backends.http.chunks import shown, top_logprobs_of
from glimp_integrations.backends.http.protocols.chat import header
from glimp_integrations.errors import BackendError
from glimp_integrations.method.entropy import begin_of, measurable

if TYPE_CHECKING:
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = [
    "ProbeResult",
    "ask",
    "ask_leniently",
    "asked_in_chat",
    "first_top",
    "lacking",
    "places",
]

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One row: the probe, its verdict, what came back, what to do."""

    probe: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def asked_in_chat(backend: OpenAIBackend, question: str, text: str, *, thinks: bool = False) -> str:
    """A prompt that goes on from ``text``; a chat needs a question in front of it."""
    if backend.protocol.exact_text:
        return text
    return header([{"role": "user", "content": question}], thinks=thinks) + text


async def ask_leniently(
    backend: OpenAIBackend, text: str, *, refused: list[str] | None = None, **fields: Any
) -> tuple[Report, list[dict[str, Any]]]:
    """Ask with log-probabilities; where the field is refused outright, without."""
    try:
        return await ask(backend, text, logprobs=backend.top_logprobs, **fields)
    except BackendError as error:
        if error.status not in (400, 422) or error.context_full or not backend.top_logprobs:
            raise
        if refused is not None:
            refused.append(error.message)
    return await ask(backend, text, logprobs=0, **fields)


async def ask(
    backend: OpenAIBackend,
    text: str,
    *,
    logprobs: int,
    max_tokens: int = 1,
    temperature: float = 0.0,
    stop: Sequence[str] = (),
    distribution_only: bool | None = None,
) -> tuple[Report, list[dict[str, Any]]]:
    report = Report()
    seconds, retries = CALL_LIMITS.get()
    request = Request(
        prompt=text,
        max_tokens=max_tokens,
        logprobs=logprobs,
        temperature=temperature,
        # Where only log-probabilities are asked for, no chance may hide them.
        distribution_only=max_tokens == 1 if distribution_only is None else distribution_only,
        timeout=60.0 if seconds is None else min(60.0, seconds),
        max_retries=retries,
    )
    async with aclosing(backend.completion(request, report, stop=stop)) as choices:
        return report, [choice async for choice in choices]


def places(backend: OpenAIBackend, choices: Sequence[Mapping[str, Any]]) -> list[tuple[float, ...]]:
    """The log-probabilities of every token of a stream, as routing reads them."""
    k, by_text = backend.top_logprobs, not backend.flavour.distribution_body
    return [place for c in choices for place in shown(c, k, by_text=by_text)]


def lacking(found: Sequence[Sequence[float]], k: int) -> str | None:
    """What a stream does not show, in words; ``None``: every token has its log-probabilities.

    Tokens are measured by the first: that even this one has fewer than k is told elsewhere (P2).
    """
    if not any(found):
        return "the stream carries no log-probabilities"
    if 1 < len(found[0]) < k:
        k = len(found[0])
    short = [n for n, place in enumerate(found, 1) if not measurable(place, k)]
    if not short:
        return None
    first = found[short[0] - 1]
    what = f"{len(first)} of {k} entries" if len(first) < k else begin_of(first)
    where = f"({what} at token {short[0]})"
    if len(short) == len(found):
        return f"no token of a stream carries {k} log-probabilities {where}"
    if short == [*range(2, len(found) + 1)]:
        return (
            f"only the first token of a stream carries log-probabilities {where}: speculation "
            "seems to be on at the server"
        )
    return (
        f"{len(short)} of {len(found)} tokens of a stream carry no log-probabilities {where}: "
        "speculation may be on at the server"
    )


def first_top(choices: list[dict[str, Any]]) -> tuple[float, ...] | None:
    return next((top for c in choices if (top := top_logprobs_of(c))), None)
