"""Questions an endpoint has to answer before it is trusted with a chain of thought.

``first_use`` is the one small request made before the first real one; ``check`` is the whole
examination, which never raises for what it finds: every probe gets a row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glimp_integrations.backends.base import Report
from glimp_integrations.backends.http.check_chat import cached, continued
from glimp_integrations.backends.http.chunks import tokens_of
from glimp_integrations.backends.http.probing import (
    ProbeResult,
    ask,
    ask_leniently,
    asked_in_chat,
    first_top,
    lacking,
    places,
)
from glimp_integrations.errors import GlimpError, UnsuitableEndpointError
from glimp_integrations.method.entropy import begin_of, measurable
from glimp_integrations.method.think_tags import find_tags

if TYPE_CHECKING:
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = ["EndpointReport", "ProbeResult", "check", "first_use", "is_tempered"]

# "a" is one token everywhere; a BOS makes two. Any template adds several more.
_RAW_TOKENS = 3
_USUAL = 20
# Kinds of routes whose servers can have tokens drafted; and tokens of a stream that tells.
_DRAFTING, _FEW = ("llama.cpp", "completions"), 4
_REPEATING = "1 2 3 4 5 6 7 8 9 " * 3 + "1 2 3"
# Nats; numerical noise between two requests is smaller.
_SAME = 0.02
_CANCELS = {
    True: "a closed connection stops the work",
    False: "a closed connection stops nothing",
    None: "whether a closed connection stops the work is not documented",
}


@dataclass(slots=True)
class EndpointReport:
    """What an examination found.

    Attributes:
        server: Model and address.
        flavour: The server's kind.
        results: One row a probe.
    """

    server: str
    flavour: str
    results: list[ProbeResult] = field(default_factory=list)

    @property
    def usable_as_large(self) -> bool:
        """Whether the endpoint can continue exact text."""
        return all(r.verdict != "fail" for r in self.results if r.probe != "P2 logprobs")

    @property
    def usable_as_small(self) -> bool:
        """Whether it can be glimpsed at, too."""
        return all(r.verdict != "fail" for r in self.results)

    def __str__(self) -> str:
        lines = [f"{self.server} ({self.flavour})"]
        for r in self.results:
            lines.append(
                f"  {r.verdict:7} {r.probe}: {r.detail}{'. ' + r.remedy if r.remedy else ''}"
            )
        return "\n".join(lines)


async def first_use(backend: OpenAIBackend) -> tuple[int, bool, str | None]:
    """Check rawness and log-probabilities with one request.

    Returns:
        How many log-probabilities the server returns, whether every token of its streams carries
        them, and why there are none, as far as that is known.

    Raises:
        UnsuitableEndpointError: The prompt is wrapped in a template.
        BackendError: The request failed.
    """
    k = backend.top_logprobs
    refused: list[str] = []
    # Servers that let tokens be drafted may show log-probabilities at the first place alone.
    few = _FEW if k and backend.flavour.protocol in _DRAFTING else 1
    how: dict[str, Any] = {"max_tokens": few, "distribution_only": True, "refused": refused}
    report, choices = await ask_leniently(backend, "a", **how)
    _raise_if_wrapped(backend, report)
    if k and not refused and not any(places(backend, choices)):
        # Servers may hide the end of sequence, or a token that is half a character, together
        # with its log-probabilities. No model answers both questions so.
        _, choices = await ask_leniently(backend, "The capital of France is", **how)
    if not k or refused:
        return 0, False, next(iter(refused), None)
    found = places(backend, choices)
    first = next(filter(None, found), ())
    if len(first) == k and not measurable(first, k):
        return 0, False, f"what it sends as such are none: {begin_of(first)}"
    return len(first), bool(first) and lacking(found, k) is None, None


async def check(backend: OpenAIBackend) -> EndpointReport:
    """Run the probes P0 to P7: P1 where exact text is continued, P5 where a chat is."""
    report = EndpointReport(backend.label, "unknown")
    # The order matters: without P0 nothing else can be asked.
    first = await _row("P0 identity", lambda: _identity(backend))
    report.results.append(first)
    report.server, report.flavour = backend.label, backend.flavour.name
    probes: list[tuple[str, Callable[[], Awaitable[ProbeResult]]]] = [
        ("P1 rawness", lambda: _rawness(backend)),
        ("P5 continuation", lambda: continued(backend)),
        ("P2 logprobs", lambda: _logprobs(backend)),
        ("P3 temperature", lambda: _temperature(backend)),
        ("P4 stream", lambda: _stream(backend)),
        ("P6 tags", lambda: _tags(backend)),
        ("P7 cache", lambda: cached(backend)),
    ]
    no_affair = "P5 continuation" if backend.protocol.exact_text else "P1 rawness"
    for name, probe in probes:
        if name == no_affair:
            continue
        if first.verdict == "fail":
            report.results.append(ProbeResult(name, "skipped", "the endpoint was not reached"))
        else:
            report.results.append(await _row(name, probe))
    return report


async def _row(name: str, probe: Callable[[], Awaitable[ProbeResult]]) -> ProbeResult:
    try:
        return await probe()
    except UnsuitableEndpointError as error:
        return ProbeResult(name, "fail", error.detail, error.remedy)
    except GlimpError as error:
        return ProbeResult(name, "fail", str(error))


async def _identity(backend: OpenAIBackend) -> ProbeResult:
    await backend.identify()
    window = backend.context_window
    size = f", context {window:,} tokens" if window else ""
    return ProbeResult("P0 identity", "ok", f"serves {backend.name}{size}")


async def _rawness(backend: OpenAIBackend) -> ProbeResult:
    report, _ = await ask(backend, "a", logprobs=0)
    if report.prompt_tokens is None:
        return ProbeResult(
            "P1 rawness", "warn", "the server reports no prompt_tokens; not provable"
        )
    _raise_if_wrapped(backend, report)
    return ProbeResult("P1 rawness", "ok", f"1 character is {report.prompt_tokens} token(s)")


async def _logprobs(backend: OpenAIBackend) -> ProbeResult:
    k, most = backend.top_logprobs, backend.flavour.max_logprobs
    if not most:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"{backend.flavour.name} continues a chat, and shows no log-probabilities with that",
            "Usable as the large model only",
        )
    if k > most:
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"{k} are asked for, and {backend.flavour.name} documents {most} at most",
            f"Set top_logprobs={most} and calibrate the threshold for it",
        )
    _, choices = await ask(backend, "The capital of France is", logprobs=k)
    top = next(filter(None, places(backend, choices)), ())
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
            else "Usable as the large model only: one token says nothing of the others",
        )
    if not measurable(top, k):
        return ProbeResult(
            "P2 logprobs",
            "fail",
            f"what came back are no log-probabilities ({begin_of(top)})",
            "Usable as the large model only, unless the server can be made to report natural "
            "logarithms of probabilities",
        )
    return ProbeResult(
        "P2 logprobs",
        "ok",
        f"{len(top)} per token ({shape})",
        "" if k >= _USUAL else f"Thresholds for {_USUAL} do not fit: calibrate one for {k}",
    )


async def _temperature(backend: OpenAIBackend) -> ProbeResult:
    if not backend.top_logprobs:
        return ProbeResult("P3 temperature", "skipped", "no log-probabilities are asked for")
    found = await temperature_shift(backend)
    if found is None:
        return ProbeResult("P3 temperature", "skipped", "no log-probabilities came back")
    if abs(found[0] - found[1]) <= _SAME:
        return ProbeResult("P3 temperature", "ok", "log-probabilities are of the raw distribution")
    detail = (
        f"log-probabilities change with temperature (top-1 {found[0]:.3f} at 1.0, "
        f"{found[1]:.3f} at 0.5)"
    )
    if backend.flavour.tempered:
        return ProbeResult(
            "P3 temperature",
            "ok",
            f"{detail}, as {backend.flavour.name} documents: they are scaled back",
            "What the tokens not shown weigh is lost with that: do not use topk_other",
        )
    return ProbeResult(
        "P3 temperature",
        "warn",
        detail,
        "Route with temperature=1, or make the server report raw ones",
    )


async def temperature_shift(backend: OpenAIBackend) -> tuple[float, float] | None:
    """The likeliest token's log-probability at temperature 1.0 and 0.5; ``None``: none came."""
    found: list[float] = []
    for temperature in (1.0, 0.5):
        _, choices = await ask_leniently(
            backend, "The capital of France is", temperature=temperature
        )
        top = first_top(choices)
        if not top:
            return None
        found.append(top[0])
    return found[0], found[1]


async def is_tempered(backend: OpenAIBackend) -> bool:
    """Whether log-probabilities are taken behind the temperature."""
    found = await temperature_shift(backend)
    return found is not None and abs(found[0] - found[1]) > _SAME


async def _stream(backend: OpenAIBackend) -> ProbeResult:
    text = asked_in_chat(backend, "Count from 1 to 20. Write nothing else.", "1 2 3 4 5 6")
    _, choices = await ask_leniently(backend, text, max_tokens=8, stop=(" 8", "8"))
    last = next((c for c in choices if c.get("finish_reason")), {})
    finish = last.get("finish_reason")
    first = next((c for c in choices if c.get("text")), None)
    if first is None:
        return ProbeResult("P4 stream", "warn", f"no text in the stream (finish {finish!r})")
    problem = await _unshown(backend, choices)
    if problem is not None:
        return ProbeResult(
            "P4 stream",
            "warn",
            problem,
            "Glimpses are requests of their own (two_request), one more a step"
            + (
                ": to save them, serve the small model without speculation (it does no harm on "
                "the large one's server)"
                if "speculation" in problem
                else ""
            ),
        )
    kept = "8" in "".join(c.get("text") or "" for c in choices)
    sizes = [
        sum(t.count for t in tokens_of(c, k=1, token_per_chunk=True))
        for c in choices
        if c.get("text")
    ]
    return ProbeResult(
        "P4 stream",
        "ok",
        ("log-probabilities in the stream, " if backend.top_logprobs else "")
        + f"up to {max(sizes)} token(s) a chunk, stop string "
        f"{'kept' if kept else 'removed'}, finish {finish!r}{_told_by(backend, last)}"
        f", {_CANCELS[backend.flavour.cancels]}",
        "Closed streams run on and are billed to their end: keep max_step_tokens low"
        if backend.flavour.cancels is False
        else "",
    )


async def _unshown(backend: OpenAIBackend, choices: list[dict[str, Any]]) -> str | None:
    """What log-probabilities streams lack, in words; ``None``: nothing, or none are asked for."""
    k = backend.top_logprobs
    if not k:
        return None
    problem = lacking(places(backend, choices), k)
    if problem is None:
        # That stream soon came to its stop string, and some servers draft only what they have
        # read before.
        _, more = await ask_leniently(backend, _REPEATING, max_tokens=2 * _FEW)
        problem = lacking(places(backend, more), k)
    return problem


def _told_by(backend: OpenAIBackend, last: dict[str, Any]) -> str:
    """How a stop string can be told from an end of sequence."""
    name = backend.flavour.stop_told
    return f", told by {name}={last.get(name)!r}" if name and last.get(name) is not None else ""


async def _tags(backend: OpenAIBackend) -> ProbeResult:
    rendered = await backend.render([{"role": "user", "content": "hi"}])
    tags, opened = find_tags(rendered.text, (await backend.capabilities()).template)
    if tags is None:
        return ProbeResult(
            "P6 tags",
            "ok",
            "no thinking tags in the chat template: the whole reply is the chain",
            "If the model does think in tags, pass think_tags=(open, close)",
        )
    opener = "opened by the template" if opened else "opened by the router"
    return ProbeResult("P6 tags", "ok", f"thinks in {tags[0]}...{tags[1]}, {opener}")


def _raise_if_wrapped(backend: OpenAIBackend, report: Report) -> None:
    count = report.prompt_tokens
    if count is not None and count > _RAW_TOKENS:
        raise UnsuitableEndpointError(
            probe="P1 rawness",
            server=backend.label,
            detail=f"wraps the prompt in a chat template (prompt_tokens={count} for 1 character)",
            remedy="Routing continues exact text: use a route that leaves the prompt alone "
            "(vLLM, llama.cpp, SGLang do on /v1/completions; many proxies do not, nor does Ollama: "
            "name it by flavour='ollama')",
        )
