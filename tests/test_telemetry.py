"""OpenTelemetry with the SDK's in-memory exporters: spans, metrics, and what is in neither."""

from __future__ import annotations

import asyncio
import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripts import HERMES, OPENED, PARIS, ROUTED, THOUGHT, demanded, tokens

from glimp_integrations import GlimpRouter, OutputSpec
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.errors import BackendError
from glimp_integrations.telemetry import CAPTURE, GlimpInstrumentor
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

SECRET = "sk-hush-hush"


class Recorded:
    """What came out."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.provider.get_tracer("test")

    @property
    def calls(self) -> list[ReadableSpan]:
        return [s for s in self.exporter.get_finished_spans() if s.name.startswith("chat ")]

    def steps(self, of: ReadableSpan | None = None) -> list[ReadableSpan]:
        spans = [s for s in self.exporter.get_finished_spans() if s.name.startswith("step ")]
        if of is not None:
            spans = [s for s in spans if s.parent and s.parent.span_id == of.context.span_id]
        return spans

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: Any) -> float:
        labels = {f"glimprouter.{key}": value for key, value in attributes.items()}
        return sum(
            point.value
            for point in self.points(name)
            if labels.items() <= dict(point.attributes).items()
        )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    monkeypatch.delenv(CAPTURE, raising=False)
    output = Recorded()
    GlimpInstrumentor().instrument(tracer_provider=output.provider, meter_provider=output.meters)
    yield output
    GlimpInstrumentor().uninstrument()
    output.meters.shutdown()


def models(delay: float = 0.0, **options: Any) -> dict[str, ScriptedBackend]:
    script = [*THOUGHT, *tokens("Four", ".", "")]
    return {
        name: ScriptedBackend(script, name=name, generation_prompt=OPENED, delay=delay, **options)
        for name in ("small", "large")
    }


def router(**options: Any) -> GlimpRouter:
    return GlimpRouter(**models(), temperature=0, **options)


class TestSpans:
    def test_a_call_and_its_steps(self, recorded):
        result = router(seed=3, stop=["END"]).run("2 + 2?")
        (call,) = recorded.calls
        assert call.name == "chat small+large"
        assert call.kind is trace.SpanKind.CLIENT
        attributes = dict(call.attributes)
        assert attributes["gen_ai.operation.name"] == "chat"
        assert attributes["gen_ai.request.model"] == "small+large"
        assert (attributes["gen_ai.request.temperature"], attributes["gen_ai.request.seed"]) == (
            0,
            3,
        )
        assert attributes["gen_ai.request.stop_sequences"] == ("END",)
        assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
        assert attributes["gen_ai.usage.input_tokens"] == result.usage.input_tokens
        assert attributes["gen_ai.usage.output_tokens"] == result.usage.output_tokens
        assert attributes["glimprouter.large_step_share"] == result.trace.large_step_share
        steps = recorded.steps(call)
        assert [s.attributes["glimprouter.author"] for s in steps] == ["small", "large", "large"]
        for span, record in zip(steps, result.trace.steps, strict=True):
            assert span.attributes.get("glimprouter.entropy") == record.entropy
            assert span.attributes["glimprouter.tokens"] == record.tokens
            assert span.attributes["glimprouter.step.end"] == record.end

    @pytest.mark.parametrize("threshold", [float("inf"), float("-inf"), 1.5])
    def test_spans_are_strict_json_whatever_the_threshold(self, recorded, threshold):
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        router(threshold=threshold).run("2 + 2?")
        spans = [recorded.calls[0], *recorded.steps()]
        assert len(spans) > 2
        for span in spans:
            attributes = json.loads(span.to_json(), parse_constant=refuse)["attributes"]
            finite = {1.5} if threshold == 1.5 else set()
            assert {attributes[k] for k in attributes if k == "glimprouter.threshold"} == finite

    @pytest.mark.serial
    def test_times_are_those_of_the_steps(self, recorded):
        result = GlimpRouter(**models(delay=0.02), temperature=0).run("2 + 2?")
        (call,) = recorded.calls
        steps = recorded.steps(call)
        for span, record in zip(steps, result.trace.steps, strict=True):
            assert (span.end_time - span.start_time) / 1e9 == pytest.approx(
                record.seconds, abs=1e-3
            )
            assert call.start_time <= span.start_time <= span.end_time <= call.end_time
        for before, after in itertools.pairwise(steps):
            assert after.start_time >= before.end_time - 5_000_000

    def test_the_callers_span_is_the_parent(self, recorded):
        with recorded.tracer.start_as_current_span("mine") as mine:
            router().run("q")
            list(router().stream("q"))
            asyncio.run(router().arun("q"))
        assert len(recorded.calls) == 3
        for call in recorded.calls:
            assert call.parent.span_id == mine.get_span_context().span_id

    def test_nothing_is_left_attached(self, recorded):
        before = context.get_current()
        for _ in router().stream("q"):
            assert context.get_current() == before
        assert context.get_current() == before

    def test_calls_at_once_keep_their_steps(self, recorded):
        async def both() -> None:
            one = GlimpRouter(**models(delay=0.003), **ROUTED)
            await asyncio.gather(*(one.arun(f"q{i}") for i in range(6)))

        asyncio.run(both())
        assert len(recorded.calls) == 6
        assert [len(recorded.steps(call)) for call in recorded.calls] == [3] * 6

    def test_an_error_is_recorded_and_ends_both(self, recorded):
        broken = models()
        broken["large"] = ScriptedBackend(
            [*THOUGHT], name="large", generation_prompt=OPENED, fail_after=1
        )
        with pytest.raises(BackendError):
            GlimpRouter(**broken, temperature=0, max_retries=0).run("tell nobody")
        (call,) = recorded.calls
        assert call.status.status_code is trace.StatusCode.ERROR
        assert call.attributes["error.type"] == "BackendError"
        assert [e.name for e in call.events] == ["exception"]
        assert recorded.steps(call)[-1].attributes["glimprouter.step.end"] == "error"
        assert "tell nobody" not in call.to_json() and "First" not in call.to_json()

    def test_a_closed_stream_is_cancelled_and_no_error(self, recorded, caplog):
        events = GlimpRouter(**models(delay=0.01), temperature=0).stream("q")
        next(events)
        events.close()
        (call,) = recorded.calls
        assert call.attributes["glimprouter.cancelled"] is True
        assert call.status.status_code is trace.StatusCode.UNSET
        assert recorded.steps(call)[-1].attributes["glimprouter.step.end"] == "cancelled"
        assert caplog.records == [], "the context was detached where it was attached"

    def test_a_called_tool_is_named_and_its_arguments_are_not(self, recorded):
        script = [
            *THOUGHT,
            *tokens(*demanded(['{"name": "get_weather", ', '"arguments": {"city": "Paris"}}'])),
        ]
        pair = {
            name: ScriptedBackend(
                script, name=name, generation_prompt=OPENED, template=HERMES, supports_schema=True
            )
            for name in ("small", "large")
        }
        tool = {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
        result = GlimpRouter(**pair, temperature=0).run(
            "Weather?", OutputSpec(tools=[tool], tool_choice="required")
        )
        assert [(c.name, c.arguments) for c in result.tool_calls] == [PARIS]
        (call,) = recorded.calls
        assert call.attributes["glimprouter.tools.called"] == ("get_weather",)
        assert call.attributes["gen_ai.response.finish_reasons"] == ("tool_call",)
        assert "Paris" not in call.to_json()


class TestContent:
    def test_texts_are_not_recorded(self, recorded):
        router().run("my question")
        for span in recorded.exporter.get_finished_spans():
            assert "my question" not in span.to_json() and "First" not in span.to_json()

    def test_texts_are_recorded_where_asked_for(self, recorded, monkeypatch):
        monkeypatch.setenv(CAPTURE, "true")
        router().run(
            [{"role": "system", "content": "Be short."}, {"role": "user", "content": "q?"}]
        )
        (call,) = recorded.calls
        conversation = json.loads(call.attributes["gen_ai.input.messages"])
        assert conversation == [
            {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
            {"role": "user", "parts": [{"type": "text", "content": "q?"}]},
        ]
        (reply,) = json.loads(call.attributes["gen_ai.output.messages"])
        assert [p["type"] for p in reply["parts"]] == ["reasoning", "text"]
        assert reply["parts"][1]["content"] == "Four."
        assert recorded.steps(call)[0].attributes["glimprouter.text"] == "First.\n\n"

    def test_secrets_are_nowhere(self, recorded, monkeypatch):
        monkeypatch.setenv(CAPTURE, "true")
        pair = GlimpRouter(
            f"openai:S@http://user:{SECRET}@127.0.0.1:9/v1",
            "openai:L@http://127.0.0.1:9/v1",
            api_key=SECRET,
            max_retries=0,
        )
        with pair, pytest.raises(BackendError):
            pair.run("q")
        (call,) = recorded.calls
        assert "127.0.0.1" in call.to_json() and SECRET not in call.to_json()


class TestMetrics:
    def test_tokens_steps_and_shares(self, recorded):
        results = [router().run("q") for _ in range(3)]
        trace_ = results[0].trace
        assert recorded.total("glimprouter.steps", author="small") == 3
        assert recorded.total("glimprouter.steps", author="large", glimpsed=True) == 3
        assert recorded.total("glimprouter.steps", author="large", glimpsed=False) == 3
        for author in ("small", "large"):
            kept = recorded.total("glimprouter.tokens", author=author, kept=True)
            assert kept == 3 * trace_.tokens(author)
        generated = recorded.total("glimprouter.tokens")
        assert generated == sum(r.usage.output_tokens for r in results)
        (share,) = recorded.points("glimprouter.large_step_share")
        assert (share.count, share.sum) == (3, pytest.approx(1.5))
        assert sum(p.count for p in recorded.points("glimprouter.entropy")) == 6

    def test_the_conventions_histograms(self, recorded):
        result = router().run("q")
        by_type = {
            p.attributes["gen_ai.token.type"]: p
            for p in recorded.points("gen_ai.client.token.usage")
        }
        assert by_type["input"].sum == result.usage.input_tokens
        assert by_type["output"].sum == result.usage.output_tokens
        (duration,) = recorded.points("gen_ai.client.operation.duration")
        assert duration.count == 1
        assert duration.explicit_bounds[0] == 0.01 and by_type["input"].explicit_bounds[1] == 4

    def test_failures_have_their_own_duration(self, recorded):
        broken = GlimpRouter(**models(fail_after=0), temperature=0, max_retries=0)
        with pytest.raises(BackendError):
            broken.run("q")
        (duration,) = recorded.points("gen_ai.client.operation.duration")
        assert duration.attributes["error.type"] == "BackendError"


class TestFrameworks:
    def test_langchain(self, recorded):
        with recorded.tracer.start_as_current_span("chain") as mine:
            assert isinstance(ChatGlimpRouter(**models(), temperature=0).invoke("q"), AIMessage)
        (call,) = recorded.calls
        assert call.parent.span_id == mine.get_span_context().span_id
        assert len(recorded.steps(call)) == 3

    async def test_langchain_streams(self, recorded):
        with recorded.tracer.start_as_current_span("chain") as mine:
            async for _ in ChatGlimpRouter(**models(), temperature=0).astream("q"):
                pass
        (call,) = recorded.calls
        assert call.parent.span_id == mine.get_span_context().span_id

    def test_llamaindex(self, recorded):
        llm = GlimpRouterLLM(**models(), temperature=0)
        with recorded.tracer.start_as_current_span("engine") as mine:
            llm.chat([ChatMessage(content="q")])
            for _ in llm.stream_chat([ChatMessage(content="q")]):
                pass
        assert [c.parent.span_id for c in recorded.calls] == [mine.get_span_context().span_id] * 2


class TestSwitch:
    def test_off_again(self, recorded):
        GlimpInstrumentor().uninstrument()
        router().run("q")
        assert recorded.exporter.get_finished_spans() == ()

    def test_nothing_is_imported_before(self):
        code = (
            "import sys, glimp_integrations, glimp_integrations.router\n"
            "print([m for m in sys.modules if m.startswith('opentelemetry')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"

    def test_the_example_prints_a_line_a_span(self, capsys):
        path = Path(__file__).parents[1] / "examples" / "telemetry.py"
        runpy.run_path(str(path))["main"](**models())
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(" s  ")[1].split("  ")[0] for line in lines] == [
            "step small",
            "step large",
            "step large",
            "chat small+large",
        ]

    def test_the_entry_point_names_it(self):
        from importlib.metadata import entry_points

        (entry_point,) = entry_points(group="opentelemetry_instrumentor", name="glimp")
        assert entry_point.load() is GlimpInstrumentor
