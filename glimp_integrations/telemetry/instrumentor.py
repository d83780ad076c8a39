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
import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations._version import __version__
from glimp_integrations.errors import ConfigError, GlimpError
from glimp_integrations.runtime.call import Call, Events, call_hooks
from glimp_integrations.telemetry import messages as texts
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
"""Environment variable of the conventions; ``true`` or a value that names spans."""

_PROVIDER = "glimprouter"


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
            Metrics(metrics.get_meter(name, __version__, options.get("meter_provider"))),
        )
        call_hooks.append(self._watcher)

    def _uninstrument(self, **_: Any) -> None:
        if self._watcher in call_hooks:
            call_hooks.remove(self._watcher)
        self._watcher = None


@dataclass(slots=True)
class _Telemetry:
    """The watcher."""

    tracer: Tracer
    metrics: Metrics

    def __call__(self, call: Call, events: Events) -> Events:
        if not is_instrumentation_enabled():  # the caller's context suppresses it
            return events
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
            watching.stopped()
            raise
        except BaseException as error:
            watching.failed(error)
            raise
        finally:
            watching.end()
            context.detach(token)


@dataclass(slots=True)
class _Watching:
    """One call.

    Spans of its steps are written when it is over: whether a step was reasoning or answer is known
    only then. They carry the times they had.
    """

    telemetry: _Telemetry
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
        asked: dict[str, Any] = {
            "gen_ai.request.temperature": settings.temperature,
            "gen_ai.request.top_p": settings.top_p,
            "gen_ai.request.max_tokens": settings.max_tokens,
            "gen_ai.request.seed": settings.seed,
            "gen_ai.request.stop_sequences": settings.stop,
            "gen_ai.output.type": "json" if call.output.schema is not None else "text",
            "glimprouter.small.model": call.small.name,
            "glimprouter.large.model": call.large.name,
            "glimprouter.threshold": float(settings.threshold),
            "glimprouter.glimpse": settings.glimpse,
            "glimprouter.random_share": settings.random_share,
        }
        if self.captures:
            asked["gen_ai.input.messages"] = texts.asked(call.messages)
        self.span = self.telemetry.tracer.start_span(
            f"chat {model}", kind=SpanKind.CLIENT, attributes=_known(self._common | asked)
        )

    def note(self, event: Event) -> None:
        """Something happened."""
        if isinstance(event, StepStarted):
            # Its glimpse came first, right behind the step before.
            before = self._done[-1][1] if self._done else time.time_ns()
            self._running = event, before
        elif isinstance(event, StepDone):
            self._running = None
            self._done.append((event.record, time.time_ns()))
            self._count(event.record)
        elif isinstance(event, Finished):
            self._result = event.result

    def stopped(self) -> None:
        """The generator was closed or its task cancelled; behind the result that is no news."""
        if self._result is None:
            self._outcome = "cancelled"
            self.span.set_attribute("glimprouter.cancelled", True)

    def failed(self, error: BaseException) -> None:
        """The call ended with an error; what it had cost until then is counted all the same."""
        self._outcome, self._kind = "error", type(error).__qualname__
        self._result = getattr(error, "partial", None)
        # Errors of ours name models, addresses and causes, never keys or what was written. Others
        # may quote anything, and a stack trace quotes every error that led to this one.
        told = str(error) if isinstance(error, GlimpError) or self.captures else None
        self.span.set_attribute("error.type", self._kind)
        self.span.add_event(
            "exception",
            _known(
                {
                    "exception.type": f"{type(error).__module__}.{self._kind}",
                    "exception.message": told,
                }
            ),
        )
        self.span.set_status(Status(StatusCode.ERROR, told or self._kind))

    def end(self) -> None:
        """The call is over, however."""
        self._write_steps(time.time_ns())
        if self._result is not None:
            self._tell(self._result)
        kind = self._common | ({"error.type": self._kind} if self._kind else {})
        outcome = {"glimprouter.outcome": self._outcome}
        found = self.telemetry.metrics
        found.duration.record(time.perf_counter() - self._started, kind | outcome)
        found.calls.add(1, kind | outcome)
        self.span.end()

    def _write_steps(self, now: int) -> None:
        records = [record for record, _ in self._done]
        if self._result is not None:
            records = self._result.trace.steps  # with their final kinds, and one that broke off
        for index, record in enumerate(records):
            done = index < len(self._done)
            end = self._done[index][1] if done else now
            # A step begins with its glimpse.
            span = self._start_step(record.author, end - int(record.seconds * 1e9))
            span.set_attributes(self._of_step(record))
            if not done:
                span.set_attribute("glimprouter.step.end", "error")
                self._count_tokens(record)
            span.end(end_time=end)
        if self._running is not None and len(records) == len(self._done):
            event, began = self._running
            span = self._start_step(event.author, began)
            span.set_attributes(
                _known(
                    {
                        "glimprouter.step.index": event.index,
                        "glimprouter.entropy": event.entropy,
                        "glimprouter.step.end": self._outcome,
                    }
                )
            )
            span.end(end_time=now)

    def _start_step(self, author: str, began: int) -> Span:
        return self.telemetry.tracer.start_span(
            f"step {author}",
            context=trace.set_span_in_context(self.span),
            start_time=began,
            attributes={"glimprouter.author": author},
        )

    def _of_step(self, record: StepRecord) -> dict[str, Any]:
        return _known(
            {
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
            }
        )

    def _count(self, record: StepRecord) -> None:
        found = self.telemetry.metrics
        author = self._common | {"glimprouter.author": record.author}
        found.steps.add(1, author | {"glimprouter.glimpsed": record.entropy is not None})
        if record.entropy is not None:
            found.entropy.record(record.entropy, author)
        self._count_tokens(record)

    def _count_tokens(self, record: StepRecord) -> None:
        author = {"glimprouter.author": record.author, "glimprouter.kept": True}
        self.telemetry.metrics.tokens.add(record.tokens, self._common | author)

    def _tell(self, result: RoutedAnswer) -> None:
        """Figures of a whole call, or of one that failed on its way."""
        told, usage = result.trace, result.usage
        finished = self._outcome == "finished"
        reason = texts.ended(result) if finished else "error"
        attributes: dict[str, Any] = {
            "gen_ai.response.model": self._common["gen_ai.request.model"],
            "gen_ai.response.finish_reasons": [reason],
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
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
            attributes["gen_ai.output.messages"] = texts.replied(result, reason)
        self.span.set_attributes(_known(attributes))
        found = self.telemetry.metrics
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            found.usage.record(count, self._common | {"gen_ai.token.type": kind})
        for author, model in (("small", usage.small), ("large", usage.large)):
            wasted = max(0, model.output_tokens - told.tokens(author))  # type: ignore[arg-type]
            kept = {"glimprouter.author": author, "glimprouter.kept": False}
            found.tokens.add(wasted, self._common | kept)
        if finished and any(step.entropy is not None for step in told.steps):
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
