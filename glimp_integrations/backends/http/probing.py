"""Small requests that find out what an endpoint does, and the result that a probe reports.

``first_use`` and ``applies_temperature`` run once, before a backend's first real request. The full
examination is ``check``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from glimp_integrations.backends.base import CALL_LIMITS, Report, Request
from glimp_integrations.backends.http.chunks import logprobs_by_token, top_logprobs_of
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.backends.http.protocols.chat import header
from glimp_integrations.backends.http.token_clock import shows_progress
from glimp_integrations.backends.retries import pause
from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from glimp_integrations.method.entropy import begin_of, measurable

__all__ = [
    "SAME_LOGPROB",
    "SAMPLE_TOKENS",
    "ProbeResult",
    "applies_temperature",
    "complete",
    "complete_with_logprobs",
    "first_top_logprobs",
    "first_use",
    "missing_logprobs",
    "probe_prompt",
    "raise_if_wrapped",
    "temperature_shift",
    "token_logprobs",
]

SAME_LOGPROB = 0.02
"""Nats; the numerical noise between two equal requests is smaller."""
SAMPLE_TOKENS = 4
"""Tokens of a stream that show whether all tokens carry log-probabilities."""
# Chunks that a small request may have beside those of its tokens.
_SPARE = 4
# "a" is one token everywhere, and a BOS makes it two. Any template adds several more.
_MAX_RAW_TOKENS = 3
# Kinds of routes whose servers may use speculative decoding.
_SPECULATIVE_PROTOCOLS = ("llama.cpp", "completions")

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One row of a report.

    Attributes:
        probe: Name of the probe.
        verdict: Whether the endpoint passed.
        detail: What came back.
        remedy: What to do; empty if nothing.
    """

    probe: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def probe_prompt(endpoint: ModelEndpoint, question: str, text: str, *, thinks: bool = False) -> str:
    """A prompt whose continuation continues ``text``.

    Args:
        endpoint: The model.
        question: What the text answers. Only endpoints that continue a chat need it.
        text: The text to continue.
        thinks: Whether the text begins with a thought. Only used for a chat.
    """
    if endpoint.protocol.exact_text:
        return text
    return header([{"role": "user", "content": question}], thinks=thinks) + text


async def complete_with_logprobs(
    endpoint: ModelEndpoint, text: str, *, refusals: list[str] | None = None, **fields: Any
) -> tuple[Report, list[dict[str, Any]]]:
    """Complete a text with log-probabilities; if the server refuses the field, without.

    Args:
        endpoint: The model.
        text: The prompt.
        refusals: The server's message is appended to it, if the field was refused.
        **fields: Further arguments of :func:`complete`.

    Raises:
        BackendError: The request failed in another way.
    """
    try:
        return await complete(endpoint, text, logprobs=endpoint.top_logprobs, **fields)
    except BackendError as error:
        if error.status not in (400, 422) or error.context_full or not endpoint.top_logprobs:
            raise
        if refusals is not None:
            refusals.append(error.message)
    return await complete(endpoint, text, logprobs=0, **fields)


async def complete(
    endpoint: ModelEndpoint,
    text: str,
    *,
    logprobs: int,
    max_tokens: int = 1,
    temperature: float = 0.0,
    stop: Sequence[str] = (),
    distribution_only: bool | None = None,
) -> tuple[Report, list[dict[str, Any]]]:
    """Complete a text with a small request.

    Args:
        endpoint: The model.
        text: The prompt.
        logprobs: How many log-probabilities per token to ask for.
        max_tokens: The most tokens to generate.
        temperature: Sampling temperature; 0 means greedy decoding.
        stop: Strings the server should stop at.
        distribution_only: As in ``Request``; ``None`` sets it for requests of one token.

    Returns:
        Counts and the end of the stream; and all its choices.

    Raises:
        UnsuitableEndpointError: The route does not exist, or the model is not served.
        BackendError: The request failed.
    """
    seconds, retries = CALL_LIMITS.get()
    request = Request(
        prompt=text,
        max_tokens=max_tokens,
        logprobs=logprobs,
        temperature=temperature,
        # A request for one token is about its log-probabilities. They must not be missing only
        # because that token happens to be a part of a character.
        distribution_only=max_tokens == 1 if distribution_only is None else distribution_only,
        timeout=60.0 if seconds is None else min(60.0, seconds),
        max_retries=retries,
    )
    attempt = 1
    while True:
        report = Report()
        try:
            return report, await _choices(endpoint, request, report, stop)
        except BackendError as error:
            # Opening the stream was repeated already, one that broke off was not.
            spent = report.retried or attempt > retries or not error.retryable
            wait = None if spent else pause(attempt, error.retry_after)
            if wait is None:
                raise
        await asyncio.sleep(wait)
        attempt += 1


async def _choices(
    endpoint: ModelEndpoint, request: Request, report: Report, stop: Sequence[str]
) -> list[dict[str, Any]]:
    """The choices of a small stream; no more than a few of a server that ignores ``max_tokens``."""
    choices: list[dict[str, Any]] = []
    async with aclosing(endpoint.completion(request, report, stop=stop)) as stream:
        async for choice in stream:
            choices.append(choice)
            if sum(map(shows_progress, choices)) > 2 * request.max_tokens + _SPARE:
                break
    return choices


def token_logprobs(
    endpoint: ModelEndpoint, choices: Sequence[Mapping[str, Any]]
) -> list[tuple[float, ...]]:
    """The log-probabilities of every token of a stream, read in the same way as for routing."""
    k, by_text = endpoint.top_logprobs, not endpoint.server.distribution_body
    return [logprobs for c in choices for logprobs in logprobs_by_token(c, k, by_text=by_text)]


def missing_logprobs(tokens: Sequence[Sequence[float]], k: int) -> str | None:
    """Which log-probabilities a stream lacks, in words; ``None`` if it lacks none.

    If even the first token has fewer than k, probe P2 reports that. The other tokens are then
    compared with the first.

    Args:
        tokens: The log-probabilities of every token of the stream, in nats.
        k: How many each token should have.
    """
    if not any(tokens):
        return "the stream carries no log-probabilities"
    if 1 < len(tokens[0]) < k:
        k = len(tokens[0])
    lacking = [n for n, logprobs in enumerate(tokens, 1) if not measurable(logprobs, k)]
    if not lacking:
        return None
    first = tokens[lacking[0] - 1]
    what = f"{len(first)} of {k} entries" if len(first) < k else begin_of(first)
    where = f"({what} at token {lacking[0]})"
    if len(lacking) == len(tokens):
        return f"no token of a stream carries {k} log-probabilities {where}"
    if lacking == [*range(2, len(tokens) + 1)]:
        return (
            f"only the first token of a stream carries log-probabilities {where}: speculation "
            "seems to be on at the server"
        )
    return (
        f"{len(lacking)} of {len(tokens)} tokens of a stream carry no log-probabilities {where}: "
        "speculation may be on at the server"
    )


def first_top_logprobs(choices: list[dict[str, Any]]) -> tuple[float, ...] | None:
    """The log-probabilities of the first token that has any, highest first."""
    return next((top for c in choices if (top := top_logprobs_of(c))), None)


async def first_use(endpoint: ModelEndpoint) -> tuple[int, bool, str | None]:
    """Check with one request that prompts are not wrapped and log-probabilities come back.

    Returns:
        How many log-probabilities the server returns, whether every token of its streams carries
        them, and why there are none, as far as that is known.

    Raises:
        UnsuitableEndpointError: The prompt is wrapped in a template.
        BackendError: The request failed.
    """
    k = endpoint.top_logprobs
    refusals: list[str] = []
    # With speculative decoding, a server may show log-probabilities for the first token only.
    speculative = bool(k) and endpoint.server.protocol in _SPECULATIVE_PROTOCOLS
    options: dict[str, Any] = {
        "max_tokens": SAMPLE_TOKENS if speculative else 1,
        "distribution_only": True,
        "refusals": refusals,
    }
    report, choices = await complete_with_logprobs(endpoint, "a", **options)
    raise_if_wrapped(endpoint, report)
    if k and not refusals and not any(token_logprobs(endpoint, choices)):
        # A server may hide the end of sequence, or a part of a character, together with its
        # log-probabilities. No model answers both of these prompts with such a token.
        _, choices = await complete_with_logprobs(endpoint, "The capital of France is", **options)
    if not k or refusals:
        return 0, False, next(iter(refusals), None)
    tokens = token_logprobs(endpoint, choices)
    first = next(filter(None, tokens), ())
    if len(first) == k and not measurable(first, k):
        return 0, False, f"what it sends as such are none: {begin_of(first)}"
    return len(first), bool(first) and missing_logprobs(tokens, k) is None, None


async def temperature_shift(endpoint: ModelEndpoint) -> tuple[float, float] | None:
    """The likeliest token's log-probability at temperature 1.0 and at 0.5, in nats.

    Returns:
        The two values; ``None`` if no log-probabilities came back.

    Raises:
        BackendError: A request failed.
    """
    values: list[float] = []
    for temperature in (1.0, 0.5):
        _, choices = await complete_with_logprobs(
            endpoint, "The capital of France is", temperature=temperature
        )
        top = first_top_logprobs(choices)
        if not top:
            return None
        values.append(top[0])
    return values[0], values[1]


async def applies_temperature(endpoint: ModelEndpoint) -> bool:
    """Whether log-probabilities describe the distribution after the temperature was applied.

    Raises:
        BackendError: A request failed.
    """
    shift = await temperature_shift(endpoint)
    return shift is not None and abs(shift[0] - shift[1]) > SAME_LOGPROB


def raise_if_wrapped(endpoint: ModelEndpoint, report: Report) -> None:
    """Raise if the server has wrapped a prompt of one character in a template.

    Raises:
        UnsuitableEndpointError: The prompt has too many tokens.
    """
    count = report.prompt_tokens
    if count is not None and count > _MAX_RAW_TOKENS:
        raise UnsuitableEndpointError(
            probe="P1 rawness",
            server=endpoint.label,
            detail=f"wraps the prompt in a chat template (prompt_tokens={count} for 1 character)",
            remedy="Routing continues exact text: use a route that leaves the prompt alone "
            "(vLLM, llama.cpp, SGLang do on /v1/completions; many proxies do not, nor does Ollama: "
            "pass server='ollama' for it)",
        )
