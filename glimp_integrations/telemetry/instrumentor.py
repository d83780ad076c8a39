"""OpenTelemetry: a span for every call and every step, and metrics of who wrote how much.

    from glimp_integrations.telemetry import GlimpInstrumentor

    GlimpInstrumentor().instrument()

or ``opentelemetry-instrument python app.py``, which finds it by its entry point. Names are those of
the GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and
``gen-ai-metrics``); names that are not in the conventions begin with ``glimprouter.``.

Texts of users and models are recorded only if
``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` is set to a value that includes spans.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations._version import __version__
from glimp_integrations.errors import ConfigError, GlimpError
from glimp_integrations.method.policy import Author
from glimp_integrations.runtime.call import Call, Events, call_hooks
from glimp_integrations.telemetry.messages import finish_reason, input_messages, output_messages
from glimp_integrations.trace.events import Event, Finished, StepDone, StepStarted
from glimp_integrations.trace.records import ModelUsage, StepRecord
from glimp_integrations.trace.trace import RoutedAnswer

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]  # untyped
        BaseInstrumentor,
    )
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

    from glimp_integrations.telemetry.metrics import Metrics
except ImportError as error:
    raise ConfigError(
        f"telemetry needs OpenTelemetry ({error.name or error} is missing): "
        "pip install 'glimp-integrations[otel]'"
    ) from error

__all__ = ["CAPTURE", "GlimpInstrumentor"]

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable of the conventions; ``true``, or a value that includes spans, such as
``span_only``, switches the recording of texts on."""

_PROVIDER = "glimprouter"


class GlimpInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Switches spans and metrics on and off for every router of the process.

    ``instrument()`` takes ``tracer_provider`` and ``meter_provider``; by default the global ones.
    """

    _hook: _TelemetryHook | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Returns nothing: the instrumentor is part of the package that it instruments."""
        return ()

    def _instrument(self, **options: Any) -> None:
        name = "glimp_integrations"
        self._hook = _TelemetryHook(
            trace.get_tracer(name, __version__, options.get("tracer_provider")),
            Metrics(metrics.get_meter(name, __version__, options.get("meter_provider"))),
        )
        call_hooks.append(self._hook)

    def _uninstrument(self, **_: Any) -> None:
        if self._hook in call_hooks:
            call_hooks.remove(self._hook)
        self._hook = None


@dataclass(slots=True)
class _TelemetryHook:
    """The hook that every call passes through while the instrumentor is on.

    Attributes:
        tracer: Starts the spans.
        metrics: The instruments.
    """

    tracer: Tracer
    metrics: Metrics

    def __call__(self, call: Call, events: Events) -> Events:
        if not is_instrumentation_enabled():  # the caller's context suppresses it
            return events
        return lambda: self._record(call, events)

    async def _record(self, call: Call, events: Events) -> AsyncGenerator[Event, None]:
        # A call runs in a copy of its caller's context (see io_loop): the current span is the
        # caller's, and the span attached here is the parent of this call's spans alone, such as
        # those of the HTTP client.
        record = _CallRecord(self.tracer, self.metrics, call, _captures())
        token = context.attach(trace.set_span_in_context(record.span))
        try:
            async with aclosing(events()) as stream:
                async for event in stream:
                    record.note(event)
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            record.stopped()
            raise
        except BaseException as error:
            record.failed(error)
            raise
        finally:
            record.end()
            context.detach(token)


@dataclass(slots=True)
class _CallRecord:
    """Spans and metrics of one call.

    The spans of its steps are written when the call is over, with the times at which the steps
    ran: only then it is certain whether a step was reasoning or answer.

    Attributes:
        tracer: Starts the spans.
        metrics: The instruments.
        call: The call.
        captures: Whether texts are recorded.
        span: The call's span.
    """

    tracer: Tracer
    metrics: Metrics
    call: Call
    captures: bool
    span: Span = field(init=False)
    _common: dict[str, Any] = field(init=False)
    _started: float = field(default_factory=time.perf_counter)
    _running: tuple[StepStarted, int] | None = None
    _done: list[tuple[StepRecord, int]] = field(default_factory=list)
    _result: RoutedAnswer | None = None
    _outcome: str = "finished"
    _kind: str | None = None

    def __post_init__(self) -> None:
        call, settings = self.call, self.call.settings
        model = f"{call.small.name}+{call.large.name}"
        self._common = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDER,
            "gen_ai.request.model": model,
        }
        request: dict[str, Any] = {
            "gen_ai.request.temperature": settings.temperature,
            "gen_ai.request.top_p": settings.top_p,
            "gen_ai.request.top_k": settings.top_k,
            "gen_ai.request.presence_penalty": settings.presence_penalty,
            "gen_ai.request.max_tokens": settings.max_tokens,
            "gen_ai.request.seed": settings.seed,
            "gen_ai.request.stop_sequences": settings.stop,
            "gen_ai.output.type": "json" if call.output.schema is not None else "text",
            "glimprouter.small.model": call.small.name,
            "glimprouter.large.model": call.large.name,
            "glimprouter.threshold": float(settings.threshold),
            "glimprouter.glimpse": settings.glimpse,
            "glimprouter.min_p": settings.min_p,
            "glimprouter.repetition_penalty": settings.repetition_penalty,
            "glimprouter.random_share": settings.random_share,
        }
        if self.captures:
            request["gen_ai.input.messages"] = input_messages(call.messages)
        self.span = self.tracer.start_span(
            f"chat {model}", kind=SpanKind.CLIENT, attributes=_recordable(self._common | request)
        )

    def note(self, event: Event) -> None:
        """Take note of an event of the call."""
        if isinstance(event, StepStarted):
            # A step starts with its glimpse, when the previous step has ended.
            start = self._done[-1][1] if self._done else time.time_ns()
            self._running = event, start
        elif isinstance(event, StepDone):
            self._running = None
            self._done.append((event.record, time.time_ns()))
            self._count(event.record)
        elif isinstance(event, Finished):
            self._result = event.result

    def stopped(self) -> None:
        """The generator was closed or its task cancelled; not counted after the result."""
        if self._result is None:
            self._outcome = "cancelled"
            self.span.set_attribute("glimprouter.cancelled", True)

    def failed(self, error: BaseException) -> None:
        """The call ended with an error; the tokens generated before it are counted."""
        self._outcome, self._kind = "error", type(error).__qualname__
        self._result = getattr(error, "partial", None)
        # A GlimpError's message has models, addresses and causes in it, never keys or texts of
        # users and models. Other errors may quote anything, and a stack trace quotes every error
        # that led to this one.
        message = str(error) if isinstance(error, GlimpError) or self.captures else None
        self.span.set_attribute("error.type", self._kind)
        self.span.add_event(
            "exception",
            _recordable(
                {
                    "exception.type": f"{type(error).__module__}.{self._kind}",
                    "exception.message": message,
                }
            ),
        )
        self.span.set_status(Status(StatusCode.ERROR, message or self._kind))

    def end(self) -> None:
        """The call is over: finished, failed or cancelled."""
        self._write_steps(time.time_ns())
        if self._result is not None:
            self._record_result(self._result)
        kind = self._common | ({"error.type": self._kind} if self._kind else {})
        outcome = {"glimprouter.outcome": self._outcome}
        self.metrics.duration.record(time.perf_counter() - self._started, kind | outcome)
        self.metrics.calls.add(1, kind | outcome)
        self.span.end()

    def _write_steps(self, now: int) -> None:
        records = [record for record, _ in self._done]
        if self._result is not None:
            # With their final kinds, and with the step in which the call failed.
            records = self._result.trace.steps
        for index, record in enumerate(records):
            done = index < len(self._done)
            end = self._done[index][1] if done else now
            span = self._start_step(record.author, end - int(record.seconds * 1e9))
            span.set_attributes(self._step_attributes(record))
            if not done:
                span.set_attribute("glimprouter.step.end", "error")
                self._count_tokens(record)
            span.end(end_time=end)
        if self._running is not None and len(records) == len(self._done):
            event, start = self._running
            span = self._start_step(event.author, start)
            span.set_attributes(
                _recordable(
                    {
                        "glimprouter.step.index": event.index,
                        "glimprouter.entropy": event.entropy,
                        "glimprouter.step.end": self._outcome,
                    }
                )
            )
            span.end(end_time=now)

    def _start_step(self, author: str, start: int) -> Span:
        return self.tracer.start_span(
            f"step {author}",
            context=trace.set_span_in_context(self.span),
            start_time=start,
            attributes={"glimprouter.author": author},
        )

    def _step_attributes(self, record: StepRecord) -> dict[str, Any]:
        return _recordable(
            {
                "glimprouter.step.index": record.index,
                "glimprouter.step.kind": record.kind,
                "glimprouter.step.end": record.end,
                "glimprouter.entropy": record.entropy,
                "glimprouter.estimator": record.estimator,
                "glimprouter.threshold": record.level,
                "glimprouter.tokens": record.tokens,
                "glimprouter.tokens.discarded": record.discarded_tokens,
                "glimprouter.tokens.prefilled": record.prefilled_tokens,
                "glimprouter.tokens.cached": record.cached_tokens,
                "glimprouter.requests": record.requests,
                "glimprouter.first_token.seconds": record.first_token_seconds,
                "glimprouter.text": record.text if self.captures else None,
            }
        )

    def _count(self, record: StepRecord) -> None:
        author = self._common | {"glimprouter.author": record.author}
        self.metrics.steps.add(1, author | {"glimprouter.glimpsed": record.entropy is not None})
        if record.entropy is not None:
            self.metrics.entropy.record(record.entropy, author)
        self._count_tokens(record)

    def _count_tokens(self, record: StepRecord) -> None:
        labels = {"glimprouter.author": record.author, "glimprouter.kept": True}
        self.metrics.tokens.add(record.tokens, self._common | labels)

    def _record_result(self, result: RoutedAnswer) -> None:
        """Record the figures of a finished call, or of a failed one until its failure."""
        summary, usage = result.trace, result.usage
        finished = self._outcome == "finished"
        reason = finish_reason(result) if finished else "error"
        attributes: dict[str, Any] = {
            "gen_ai.response.model": self._common["gen_ai.request.model"],
            "gen_ai.response.finish_reasons": [reason],
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
            "glimprouter.strategy": summary.strategy,
            "glimprouter.strategy.reason": summary.strategy_reason,
            "glimprouter.stop_reason": summary.stop_reason,
            "glimprouter.answer_stop": summary.answer_stop,
            "glimprouter.large_share": summary.large_share,
            "glimprouter.large_step_share": summary.large_step_share,
            "glimprouter.requests": summary.requests,
            "glimprouter.tokens.discarded": summary.discarded_tokens,
            "glimprouter.cost": summary.cost,
            "glimprouter.errors": summary.errors or None,
            "glimprouter.tools.called": [call.name for call in result.tool_calls] or None,
            **_model_attributes("small", usage.small),
            **_model_attributes("large", usage.large),
        }
        if self.captures:
            attributes["gen_ai.output.messages"] = output_messages(result, reason)
        self.span.set_attributes(_recordable(attributes))
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self.metrics.usage.record(count, self._common | {"gen_ai.token.type": kind})
        models: dict[Author, ModelUsage] = {"small": usage.small, "large": usage.large}
        for author, model in models.items():
            discarded = max(0, model.output_tokens - summary.tokens(author))
            labels = {"glimprouter.author": author, "glimprouter.kept": False}
            self.metrics.tokens.add(discarded, self._common | labels)
        if finished and any(step.entropy is not None for step in summary.steps):
            self.metrics.share.record(summary.large_step_share, self._common)


def _captures() -> bool:
    return os.environ.get(CAPTURE, "").strip().lower() in (
        "true",
        "1",
        "span_only",
        "span_and_event",
    )


def _recordable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without ``None``, and without infinities and NaN.

    OpenTelemetry allows such numbers, but JSON has none: exporters and backends that write JSON
    lose whole batches of spans. A text in place of a number is refused by others.
    """
    return {
        name: value
        for name, value in attributes.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _model_attributes(role: str, usage: ModelUsage) -> dict[str, Any]:
    return {
        f"glimprouter.{role}.requests": usage.requests,
        f"glimprouter.{role}.input_tokens": usage.input_tokens,
        f"glimprouter.{role}.cached_tokens": usage.cached_tokens,
        f"glimprouter.{role}.output_tokens": usage.output_tokens,
    }
