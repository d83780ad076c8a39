"""``check``: what an endpoint has to show before it is trusted with a chain of thought.

The examination never raises for what it finds: every probe gets a row in the report. The one small
request that is made before the first real one is ``probing.first_use``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.backends.http.check_chat import check_cache, check_continuation
from glimp_integrations.backends.http.chunks import tokens_of
from glimp_integrations.backends.http.probing import (
    SAME_LOGPROB,
    SAMPLE_TOKENS,
    ProbeResult,
    complete,
    complete_with_logprobs,
    missing_logprobs,
    probe_prompt,
    raise_if_wrapped,
    temperature_shift,
    token_logprobs,
)
from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.errors import GlimpError, UnsuitableEndpointError
from glimp_integrations.method.entropy import begin_of, measurable
from glimp_integrations.method.think_tags import find_tags

__all__ = ["EndpointReport", "ProbeResult", "check"]

_USUAL_K = 20
_REPETITIVE_TEXT = "1 2 3 4 5 6 7 8 9 " * 3 + "1 2 3"
_CANCELS = {
    True: "a closed connection stops the work",
    False: "a closed connection stops nothing",
    None: "whether a closed connection stops the work is not documented",
}


@dataclass(slots=True)
class EndpointReport:
    """The results of all probes.

    Attributes:
        endpoint: Name of the model and address of the server.
        server: The server's kind.
        results: One row a probe.
    """

    endpoint: str
    server: str
    results: list[ProbeResult] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether the server is there and serves the model."""
        return any(r.probe == "P0 identity" and r.verdict != "fail" for r in self.results)

    @property
    def usable_as_large(self) -> bool:
        """Whether the endpoint can continue exact text."""
        return all(r.verdict != "fail" for r in self.results if r.probe != "P2 logprobs")

    @property
    def usable_as_small(self) -> bool:
        """Whether the endpoint can also be measured by glimpses, which need log-probabilities."""
        return all(r.verdict != "fail" for r in self.results)

    def __str__(self) -> str:
        lines = [f"{self.endpoint} ({self.server})"]
        for r in self.results:
            lines.append(
                f"  {r.verdict:7} {r.probe}: {r.detail}{'. ' + r.remedy if r.remedy else ''}"
            )
        return "\n".join(lines)


async def check(endpoint: ModelEndpoint) -> EndpointReport:
    """Run the probes P0 to P7: P1 where exact text is continued, P5 where a chat is.

    Never raises for what a probe finds; every failure becomes a row of the report.
    """
    report = EndpointReport(endpoint.label, "unknown")
    # P0 comes first: it sets the model's name and the kind of server, which the others need.
    identity = await _row("P0 identity", lambda: _identity(endpoint))
    report.results.append(identity)
    report.endpoint, report.server = endpoint.label, endpoint.server.name
    probes: list[tuple[str, Callable[[], Awaitable[ProbeResult]]]] = [
        ("P1 rawness", lambda: _rawness(endpoint)),
        ("P5 continuation", lambda: check_continuation(endpoint)),
        ("P2 logprobs", lambda: _logprobs(endpoint)),
        ("P3 temperature", lambda: _temperature(endpoint)),
        ("P4 stream", lambda: _stream(endpoint)),
        ("P6 tags", lambda: _tags(endpoint)),
        ("P7 cache", lambda: check_cache(endpoint)),
    ]
    inapplicable = "P5 continuation" if endpoint.protocol.exact_text else "P1 rawness"
    for name, probe in probes:
        if name == inapplicable:
            continue
        if identity.verdict == "fail":
            report.results.append(ProbeResult(name, "skipped", "the endpoint was not reached"))
        else:
            report.results.append(await _row(name, probe))
    return report


async def _row(name: str, probe: Callable[[], Awaitable[ProbeResult]]) -> ProbeResult:
    """The result of a probe; an error becomes a failed one."""
    try:
        return await probe()
    except UnsuitableEndpointError as error:
        return ProbeResult(name, "fail", error.detail, error.remedy)
    except GlimpError as error:
        return ProbeResult(name, "fail", str(error))


async def _identity(endpoint: ModelEndpoint) -> ProbeResult:
    """P0: whether the server is there and serves the model."""
    await endpoint.identify()
    window = endpoint.context_window
    size = f", context {window:,} tokens" if window else ""
    return ProbeResult("P0 identity", "ok", f"serves {endpoint.name}{size}")


async def _rawness(endpoint: ModelEndpoint) -> ProbeResult:
    """P1: whether the prompt is continued as it is, without a template around it."""
    report, _ = await complete(endpoint, "a", logprobs=0)
    if report.prompt_tokens is None:
        return ProbeResult(
            "P1 rawness", "warn", "the server reports no prompt_tokens; not provable"
        )
    raise_if_wrapped(endpoint, report)
    return ProbeResult("P1 rawness", "ok", f"1 character is {report.prompt_tokens} token(s)")


async def _logprobs(endpoint: ModelEndpoint) -> ProbeResult:
    """P2: whether a token carries as many log-probabilities as are asked for."""
    k, most = endpoint.top_logprobs, endpoint.server.max_logprobs
    if not most:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"{endpoint.server.name} continues a chat, and shows no log-probabilities with that",
            "Usable as the large model only",
        )
    if k > most:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"{k} are asked for, and {endpoint.server.name} documents {most} at most",
            f"Set top_logprobs={most} and calibrate the threshold for it",
        )
    _, choices = await complete(endpoint, "The capital of France is", logprobs=k)
    top = next(filter(None, token_logprobs(endpoint, choices)), ())
    if not top:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            "no top-k log-probabilities came back",
            "Usable as the large model only",
        )
    shape = "content[]" if (choices[0].get("logprobs") or {}).get("content") else "legacy"
    if len(top) < k:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"{len(top)} of {k} requested came back ({shape})",
            f"Set top_logprobs={len(top)} and calibrate the threshold for it"
            if len(top) > 1
            else "Usable as the large model only: entropy needs more than one",
        )
    if not measurable(top, k):
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"what came back are not log-probabilities ({begin_of(top)})",
            "Usable as the large model only, unless the server can be made to report natural "
            "logarithms of probabilities",
        )
    return ProbeResult(
        "P2 logprobs",
        "ok",
        f"{len(top)} per token ({shape})",
        "" if k >= _USUAL_K else f"Thresholds for {_USUAL_K} do not fit: calibrate one for {k}",
    )


async def _temperature(endpoint: ModelEndpoint) -> ProbeResult:
    """P3: whether log-probabilities are those of the raw distribution."""
    if not endpoint.top_logprobs:
        return ProbeResult("P3 temperature", "skipped", "no log-probabilities are asked for")
    shift = await temperature_shift(endpoint)
    if shift is None:
        return ProbeResult("P3 temperature", "skipped", "no log-probabilities came back")
    if abs(shift[0] - shift[1]) <= SAME_LOGPROB:
        return ProbeResult("P3 temperature", "ok", "log-probabilities are of the raw distribution")
    detail = (
        f"log-probabilities change with temperature (top-1 {shift[0]:.3f} at 1.0, "
        f"{shift[1]:.3f} at 0.5)"
    )
    if endpoint.server.logprobs_mode == "temperature":
        return ProbeResult(
            "P3 temperature",
            "ok",
            f"{detail}, as {endpoint.server.name} documents: they are scaled back",
            "The probability of the other tokens is lost by that: do not use topk_other",
        )
    return ProbeResult(
        "P3 temperature",
        "warn",
        detail,
        "Route with temperature=1, or make the server report raw ones",
    )


async def _stream(endpoint: ModelEndpoint) -> ProbeResult:
    """P4: whether every token of a stream carries log-probabilities, and how streams end."""
    text = probe_prompt(endpoint, "Count from 1 to 20. Write nothing else.", "1 2 3 4 5 6")
    _, choices = await complete_with_logprobs(endpoint, text, max_tokens=8, stop=(" 8", "8"))
    if not any(c.get("text") for c in choices):
        finish = _last_choice(choices).get("finish_reason")
        return ProbeResult("P4 stream", "warn", f"no text in the stream (finish {finish!r})")
    problem = await _stream_problem(endpoint, choices)
    if problem is not None:
        remedy = "Glimpses are requests of their own (two_request), one more a step"
        if "speculation" in problem:
            remedy += (
                ": to save them, serve the small model without speculation (it does no harm on "
                "the large one's server)"
            )
        return ProbeResult("P4 stream", "warn", problem, remedy)
    bills_closed_streams = endpoint.server.cancels is False
    return ProbeResult(
        "P4 stream",
        "ok",
        _stream_detail(endpoint, choices),
        "Closed streams continue and are billed to their end: keep max_step_tokens low"
        if bills_closed_streams
        else "",
    )


def _stream_detail(endpoint: ModelEndpoint, choices: list[dict[str, Any]]) -> str:
    """How a stream with text came, in words."""
    last = _last_choice(choices)
    stop_kept = "8" in "".join(c.get("text") or "" for c in choices)
    most = max(
        sum(t.count for t in tokens_of(c, k=1, token_per_chunk=True))
        for c in choices
        if c.get("text")
    )
    name = endpoint.server.stop_field
    parts = [
        *(["log-probabilities in the stream"] if endpoint.top_logprobs else []),
        f"up to {most} token(s) a chunk",
        f"stop string {'kept' if stop_kept else 'removed'}",
        f"finish {last.get('finish_reason')!r}",
        # How a stop string can be told from an end of sequence.
        *([f"told by {name}={last[name]!r}"] if name and last.get(name) is not None else []),
        _CANCELS[endpoint.server.cancels],
    ]
    return ", ".join(parts)


def _last_choice(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The choice that ends a stream; empty if there is none."""
    return next((c for c in choices if c.get("finish_reason")), {})


async def _stream_problem(endpoint: ModelEndpoint, choices: list[dict[str, Any]]) -> str | None:
    """Which log-probabilities streams lack, in words; ``None`` if none, or if none are needed."""
    k = endpoint.top_logprobs
    if not k:
        return None
    problem = missing_logprobs(token_logprobs(endpoint, choices), k)
    if problem is None:
        # That stream soon reached its stop string. And some servers draft only text that they have
        # read before, so look at a longer stream of repetitive text, too.
        _, more = await complete_with_logprobs(
            endpoint, _REPETITIVE_TEXT, max_tokens=2 * SAMPLE_TOKENS
        )
        problem = missing_logprobs(token_logprobs(endpoint, more), k)
    return problem


async def _tags(endpoint: ModelEndpoint) -> ProbeResult:
    """P6: which tags the model thinks in."""
    capabilities = await endpoint.capabilities()
    rendered = await endpoint.render([{"role": "user", "content": "hi"}])
    tags, opened = find_tags(rendered.text, capabilities.template)
    if tags is None:
        return ProbeResult(
            "P6 tags",
            "ok",
            "no thinking tags in the chat template: the whole reply is the chain",
            "If the model does think in tags, pass think_tags=(open, close)",
        )
    opener = "opened by the template" if opened else "opened by the router"
    return ProbeResult("P6 tags", "ok", f"thinks in {tags[0]}...{tags[1]}, {opener}")
