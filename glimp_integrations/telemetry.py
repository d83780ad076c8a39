"""OpenTelemetry: a span for every call and every step, and metrics of who wrote how much.

    from glimp_integrations.telemetry import GlimpInstrumentor

    GlimpInstrumentor().instrument()

or ``opentelemetry-instrument python app.py``, which finds it by its entry point. Names are those of
the GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and
``gen-ai-metrics``); what they have no name for begins with ``glimprouter.``.

Texts of users and models are recorded only where
``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]  # untyped
    BaseInstrumentor,
)
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from glimp_integrations._version import __version__
from glimp_integrations.adapter import finish_reason
from glimp_integrations.events import Event, Finished, StepDone, StepStarted
from glimp_integrations.trace import ModelUsage, RoutedAnswer, StepRecord
from glimp_integrations.watch import Call, Events, watchers

__all__ = ["CAPTURE", "GlimpInstrumentor"]

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable of the conventions; ``true`` or a value that names spans."""

_PROVIDER = "glimprouter"
# Boundaries the conventions ask for.
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [4**power for power in range(14)]
_NATS = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0]
_SHARES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0]


class GlimpInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Switches spans and metrics on and off for every router of the process.

    ``instrument()`` takes ``tracer_provider`` and ``meter_provider``; by default the global ones.
    """

    _watcher: _Telemetry | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: it comes with what it instruments."""
        return ()

    def _instrument(self, **options: Any) -> None:
        name = "glimp_integrations"
        self._watcher = _Telemetry(
            trace.get_tracer(name, __version__, options.get("tracer_provider")),
            _Metrics(metrics.get_meter(name, __version__, options.get("meter_provider"))),
        )
        watchers.append(self._watcher)

    def _uninstrument(self, **_: Any) -> None:
        if self._watcher in watchers:
            watchers.remove(self._watcher)
        self._watcher = None


class _Metrics:
    def __init__(self, meter: metrics.Meter) -> None:
        self.usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of a call, both models together.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a call.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.tokens = meter.create_counter(
            "glimprouter.tokens", "{token}", "Generated tokens by model, kept or discarded."
        )
        self.steps = meter.create_counter("glimprouter.steps", "{step}", "Steps by author.")
        self.entropy = meter.create_histogram(
            "glimprouter.entropy",
            "{nat}",
            "H of glimpsed steps.",
            explicit_bucket_boundaries_advisory=_NATS,
        )
        self.share = meter.create_histogram(
            "glimprouter.large_step_share",
            "1",
            "Share of a call's glimpsed steps that the large model wrote.",
            explicit_bucket_boundaries_advisory=_SHARES,
        )


@dataclass(slots=True)
class _Telemetry:
    """The watcher."""

    tracer: Tracer
    metrics: _Metrics

    def __call__(self, call: Call, events: Events) -> Events:
        return lambda: self._watch(call, events)

    async def _watch(self, call: Call, events: Events) -> AsyncGenerator[Event, None]:
        # The bridge runs a call in a copy of its caller's context: the current span is theirs, and
        # what is attached here is seen by this call alone (the HTTP client's spans, for instance).
        watching = _Watching(self, call, _captures())
        token = context.attach(trace.set_span_in_context(watching.span))
        try:
            async with aclosing(events()) as stream:
                async for event in stream:
                    watching.note(event)
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            watching.span.set_attribute("glimprouter.cancelled", True)
            raise
        except BaseException as error:
            watching.failed(error)
            raise
        finally:
            watching.end()
            context.detach(token)


@dataclass(slots=True)
class _Watching:
    """One call."""

    telemetry: _Telemetry
    call: Call
    captures: bool
    span: Span = field(init=False)
    _common: dict[str, Any] = field(init=False)
    _started: float = field(default_factory=time.perf_counter)
    _running: tuple[StepStarted, int] | None = None
    _kind: str | None = None

    def __post_init__(self) -> None:
        call, settings = self.call, self.call.settings
        model = f"{call.small.name}+{call.large.name}"
        self._common = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDER,
            "gen_ai.request.model": model,
        }
        asked: dict[str, Any] = {
            "gen_ai.request.temperature": settings.temperature,
            "gen_ai.request.top_p": settings.top_p,
            "gen_ai.request.max_tokens": settings.max_tokens,
            "gen_ai.request.seed": settings.seed,
            "gen_ai.request.stop_sequences": settings.stop,
            "gen_ai.output.type": "json" if call.form.schema is not None else "text",
            "glimprouter.small.model": call.small.name,
            "glimprouter.large.model": call.large.name,
            "glimprouter.threshold": float(settings.threshold),
            "glimprouter.glimpse": settings.glimpse,
            "glimprouter.random_share": settings.random_share,
        }
        if self.captures:
            asked["gen_ai.input.messages"] = json.dumps(
                [_message(message) for message in call.messages], ensure_ascii=False, default=str
            )
        self.span = self.telemetry.tracer.start_span(
            f"chat {model}", kind=SpanKind.CLIENT, attributes=_known(self._common | asked)
        )

    def note(self, event: Event) -> None:
        """Something happened."""
        if isinstance(event, StepStarted):
            self._running = event, time.time_ns()
        elif isinstance(event, StepDone):
            self._running = None
            self._step(event.record)
        elif isinstance(event, Finished):
            self._finished(event.result)

    def failed(self, error: BaseException) -> None:
        """The call ended with an error."""
        self._kind = type(error).__qualname__
        self.span.set_attribute("error.type", self._kind)
        # Errors of ours name models, addresses and causes, never keys or what was written.
        self.span.record_exception(error)
        self.span.set_status(Status(StatusCode.ERROR, str(error)))

    def end(self) -> None:
        """The call is over, however."""
        if self._running is not None:
            event, began = self._running
            step = self._start_step(event.author, began)
            step.set_attributes(_known({
                "glimprouter.step.index": event.index,
                "glimprouter.entropy": event.entropy,
                "glimprouter.step.end": "error" if self._kind else "cancelled",
            }))  # fmt: skip
            step.end()
        kind = {"error.type": self._kind} if self._kind else {}
        seconds = time.perf_counter() - self._started
        self.telemetry.metrics.duration.record(seconds, self._common | kind)
        self.span.end()

    def _start_step(self, author: str, began: int) -> Span:
        return self.telemetry.tracer.start_span(
            f"step {author}",
            context=trace.set_span_in_context(self.span),
            start_time=began,
            attributes={"glimprouter.author": author},
        )

    def _step(self, record: StepRecord) -> None:
        now = time.time_ns()
        # A step begins with its glimpse.
        span = self._start_step(record.author, now - int(record.seconds * 1e9))
        span.set_attributes(_known({
            "glimprouter.step.index": record.index,
            "glimprouter.step.kind": record.kind,
            "glimprouter.step.end": record.end,
            "glimprouter.entropy": record.entropy,
            "glimprouter.estimator": record.estimator,
            "glimprouter.threshold": float(record.threshold),
            "glimprouter.tokens": record.tokens,
            "glimprouter.tokens.discarded": record.discarded_tokens,
            "glimprouter.tokens.prefilled": record.prefilled_tokens,
            "glimprouter.tokens.cached": record.cached_tokens,
            "glimprouter.requests": record.requests,
            "glimprouter.first_token.seconds": record.first_token_seconds,
            "glimprouter.text": record.text if self.captures else None,
        }))  # fmt: skip
        span.end(end_time=now)
        found = self.telemetry.metrics
        author = {"glimprouter.author": record.author}
        glimpsed = {"glimprouter.glimpsed": record.entropy is not None}
        found.steps.add(1, self._common | author | glimpsed)
        if record.entropy is not None:
            found.entropy.record(record.entropy, self._common | author)
        found.tokens.add(record.tokens, self._common | author | {"glimprouter.kept": True})

    def _finished(self, result: RoutedAnswer) -> None:
        told, usage = result.trace, result.usage
        attributes: dict[str, Any] = {
            "gen_ai.response.model": self._common["gen_ai.request.model"],
            "gen_ai.response.finish_reasons": [finish_reason(result).replace("calls", "call")],
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "glimprouter.usage.reasoning_tokens": usage.reasoning_tokens,
            "glimprouter.strategy": told.strategy,
            "glimprouter.strategy.reason": told.strategy_reason,
            "glimprouter.stop_reason": told.stop_reason,
            "glimprouter.answer_stop": told.answer_stop,
            "glimprouter.large_share": told.large_share,
            "glimprouter.large_step_share": told.large_step_share,
            "glimprouter.requests": told.requests,
            "glimprouter.tokens.discarded": told.discarded_tokens,
            "glimprouter.cost": told.cost,
            "glimprouter.errors": told.errors or None,
            "glimprouter.tools.called": [call.name for call in result.tool_calls] or None,
            **_of_model("small", usage.small),
            **_of_model("large", usage.large),
        }
        if self.captures:
            attributes["gen_ai.output.messages"] = json.dumps([_reply(result)], ensure_ascii=False)
        self.span.set_attributes(_known(attributes))
        found = self.telemetry.metrics
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            found.usage.record(count, self._common | {"gen_ai.token.type": kind})
        for author, model in (("small", usage.small), ("large", usage.large)):
            wasted = max(0, model.output_tokens - told.tokens(author))  # type: ignore[arg-type]
            kept = {"glimprouter.author": author, "glimprouter.kept": False}
            found.tokens.add(wasted, self._common | kept)
        if any(step.entropy is not None for step in told.steps):
            found.share.record(told.large_step_share, self._common)


def _captures() -> bool:
    return os.environ.get(CAPTURE, "").strip().lower() in (
        "true",
        "1",
        "span_only",
        "span_and_event",
    )


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _of_model(role: str, usage: ModelUsage) -> dict[str, Any]:
    return {
        f"glimprouter.{role}.requests": usage.requests,
        f"glimprouter.{role}.input_tokens": usage.input_tokens,
        f"glimprouter.{role}.cached_tokens": usage.cached_tokens,
        f"glimprouter.{role}.output_tokens": usage.output_tokens,
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the conventions write it: a role and parts."""
    parts: list[dict[str, Any]] = []
    if message.get("role") == "tool":
        parts.append({
            "type": "tool_call_response",
            "id": message.get("tool_call_id"),
            "response": message.get("content"),
        })  # fmt: skip
    elif message.get("content"):
        parts.append({"type": "text", "content": message["content"]})
    for call in message.get("tool_calls") or ():
        asked = call.get("function") or {}
        parts.append({
            "type": "tool_call",
            "id": call.get("id"),
            "name": asked.get("name"),
            "arguments": asked.get("arguments"),
        })  # fmt: skip
    return {"role": message.get("role"), "parts": parts}


def _reply(result: RoutedAnswer) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if result.reasoning:
        parts.append({"type": "reasoning", "content": result.reasoning})
    if result.answer:
        parts.append({"type": "text", "content": result.answer})
    for call in result.tool_calls:
        said = {"id": call.id, "name": call.name, "arguments": call.arguments}
        parts.append({"type": "tool_call", **said})
    reason = finish_reason(result).replace("calls", "call")
    return {"role": "assistant", "parts": parts, "finish_reason": reason}
