"""Small requests that find out what an endpoint does, and the row that a probe reports.

``first_use`` and ``is_tempered`` are asked once, before a backend's first real request; the whole
examination is ``check``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from glimp_integrations.backends.base import CALL_LIMITS, Report, Request
from glimp_integrations.backends.http.chunks import shown, top_logprobs_of
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.backends.http.protocols.chat import header
from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from glimp_integrations.method.entropy import begin_of, measurable

__all__ = [
    "FEW",
    "SAME",
    "ProbeResult",
    "ask",
    "ask_leniently",
    "asked_in_chat",
    "first_top",
    "first_use",
    "is_tempered",
    "lacking",
    "places",
    "raise_if_wrapped",
    "temperature_shift",
]

# "a" is one token everywhere; a BOS makes two. Any template adds several more.
_RAW_TOKENS = 3
# Kinds of routes whose servers can have tokens drafted; and tokens of a stream that tells.
_DRAFTING, FEW = ("llama.cpp", "completions"), 4
# Nats; numerical noise between two requests is smaller.
SAME = 0.02

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One row: the probe, its verdict, what came back, what to do."""

    probe: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def asked_in_chat(
    endpoint: ModelEndpoint, question: str, text: str, *, thinks: bool = False
) -> str:
    """A prompt that goes on from ``text``; a chat needs a question in front of it."""
    if endpoint.protocol.exact_text:
        return text
    return header([{"role": "user", "content": question}], thinks=thinks) + text


async def ask_leniently(
    endpoint: ModelEndpoint, text: str, *, refused: list[str] | None = None, **fields: Any
) -> tuple[Report, list[dict[str, Any]]]:
    """Ask with log-probabilities; where the field is refused outright, without."""
    try:
        return await ask(endpoint, text, logprobs=endpoint.top_logprobs, **fields)
    except BackendError as error:
        if error.status not in (400, 422) or error.context_full or not endpoint.top_logprobs:
            raise
        if refused is not None:
            refused.append(error.message)
    return await ask(endpoint, text, logprobs=0, **fields)


async def ask(
    endpoint: ModelEndpoint,
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
    async with aclosing(endpoint.completion(request, report, stop=stop)) as choices:
        return report, [choice async for choice in choices]


def places(
    endpoint: ModelEndpoint, choices: Sequence[Mapping[str, Any]]
) -> list[tuple[float, ...]]:
    """The log-probabilities of every token of a stream, as routing reads them."""
    k, by_text = endpoint.top_logprobs, not endpoint.flavour.distribution_body
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


async def first_use(endpoint: ModelEndpoint) -> tuple[int, bool, str | None]:
    """Check rawness and log-probabilities with one request.

    Returns:
        How many log-probabilities the server returns, whether every token of its streams carries
        them, and why there are none, as far as that is known.

    Raises:
        UnsuitableEndpointError: The prompt is wrapped in a template.
        BackendError: The request failed.
    """
    k = endpoint.top_logprobs
    refused: list[str] = []
    # Servers that let tokens be drafted may show log-probabilities at the first place alone.
    few = FEW if k and endpoint.flavour.protocol in _DRAFTING else 1
    how: dict[str, Any] = {"max_tokens": few, "distribution_only": True, "refused": refused}
    report, choices = await ask_leniently(endpoint, "a", **how)
    raise_if_wrapped(endpoint, report)
    if k and not refused and not any(places(endpoint, choices)):
        # Servers may hide the end of sequence, or a token that is half a character, together
        # with its log-probabilities. No model answers both questions so.
        _, choices = await ask_leniently(endpoint, "The capital of France is", **how)
    if not k or refused:
        return 0, False, next(iter(refused), None)
    found = places(endpoint, choices)
    first = next(filter(None, found), ())
    if len(first) == k and not measurable(first, k):
        return 0, False, f"what it sends as such are none: {begin_of(first)}"
    return len(first), bool(first) and lacking(found, k) is None, None


async def temperature_shift(endpoint: ModelEndpoint) -> tuple[float, float] | None:
    """The likeliest token's log-probability at temperature 1.0 and 0.5; ``None``: none came."""
    found: list[float] = []
    for temperature in (1.0, 0.5):
        _, choices = await ask_leniently(
            endpoint, "The capital of France is", temperature=temperature
        )
        top = first_top(choices)
        if not top:
            return None
        found.append(top[0])
    return found[0], found[1]


async def is_tempered(endpoint: ModelEndpoint) -> bool:
    """Whether log-probabilities are taken behind the temperature."""
    found = await temperature_shift(endpoint)
    return found is not None and abs(found[0] - found[1]) > SAME


def raise_if_wrapped(endpoint: ModelEndpoint, report: Report) -> None:
    count = report.prompt_tokens
    if count is not None and count > _RAW_TOKENS:
        raise UnsuitableEndpointError(
            probe="P1 rawness",
            server=endpoint.label,
            detail=f"wraps the prompt in a chat template (prompt_tokens={count} for 1 character)",
            remedy="Routing continues exact text: use a route that leaves the prompt alone "
            "(vLLM, llama.cpp, SGLang do on /v1/completions; many proxies do not, nor does Ollama: "
            "name it by flavour='ollama')",
        )
