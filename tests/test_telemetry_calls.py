"""OpenTelemetry where calls do not go straight: closed, failed, lazy, at once, elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from scripts import OPENED, ROUTED, SPOKEN, THOUGHT, tokens
from test_telemetry import CAPTURE, Recorded, models, recorded, router

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.errors import BackendError
from glimp_integrations.runtime.call import call_hooks
from glimp_integrations.telemetry import GlimpInstrumentor
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

__all__ = ["recorded"]  # a fixture

ROOT = Path(__file__).parents[1]
SCRIPT = [*THOUGHT, *tokens("Four", ".", "")]


def parents(recorded: Recorded) -> list[int | None]:
    return [call.parent.span_id if call.parent else None for call in recorded.calls]


def span_id(span: trace.Span) -> int:
    return span.get_span_context().span_id


class TestOutcomes:
    @pytest.mark.parametrize("way", ["run", "arun", "stream", "astream"])
    def test_a_finished_call_was_not_cancelled(self, recorded, way):
        async def read() -> None:
            async for _ in router().astream("q"):
                pass

        if way == "run":
            router().run("q")
        elif way == "stream":
            list(router().stream("q"))
        else:
            asyncio.run(router().arun("q") if way == "arun" else read())
        (call,) = recorded.calls
        assert "glimprouter.cancelled" not in call.attributes
        assert recorded.total("glimprouter.calls", outcome="finished") == 1
        assert recorded.total("glimprouter.calls") == 1

    async def test_a_cancelled_task(self, recorded):
        slow = GlimpRouter(**models(delay=0.01), temperature=0)
        task = asyncio.create_task(slow.arun("q"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (call,) = recorded.calls
        assert call.attributes["glimprouter.cancelled"] is True
        assert recorded.total("glimprouter.calls", outcome="cancelled") == 1
        (duration,) = recorded.points("gen_ai.client.operation.duration")
        assert duration.attributes["glimprouter.outcome"] == "cancelled"

    @pytest.mark.serial
    def test_a_failed_call_has_cost_tokens(self, recorded):
        broken = models()
        broken["large"] = ScriptedBackend(
            SCRIPT, name="large", generation_prompt=OPENED, fail_after=1
        )
        with pytest.raises(BackendError) as caught:
            GlimpRouter(**broken, temperature=0, max_retries=0).run("q")
        partial = caught.value.partial
        (call,) = recorded.calls
        assert call.attributes["gen_ai.usage.output_tokens"] == partial.usage.output_tokens > 0
        assert call.attributes["gen_ai.response.finish_reasons"] == ("error",)
        assert recorded.total("glimprouter.tokens") == partial.usage.output_tokens
        kept = recorded.total("glimprouter.tokens", author="large", kept=True)
        assert kept == partial.trace.tokens("large") == 1
        assert recorded.total("glimprouter.calls", outcome="error") == 1
        steps = recorded.steps(call)
        assert [s.attributes["glimprouter.step.index"] for s in steps] == [0, 1]
        for span, record in zip(steps, partial.trace.steps, strict=True):
            assert span.attributes["glimprouter.tokens"] == record.tokens
            seconds = (span.end_time - span.start_time) / 1e9
            assert seconds == pytest.approx(record.seconds, abs=5e-3)

    def test_a_step_of_untagged_models_has_its_final_kind(self, recorded):
        script = [*SPOKEN, *tokens("Four.", "")]
        pair = {name: ScriptedBackend(script, name=name) for name in ("small", "large")}
        result = GlimpRouter(**pair, temperature=0).run("q")
        kinds = [s.attributes["glimprouter.step.kind"] for s in recorded.steps()]
        assert kinds == [step.kind for step in result.trace.steps]
        assert kinds == ["reasoning", "reasoning", "answer"]


class Quoting(ScriptedBackend):
    """Fails with an error that quotes the prompt and a key."""

    ours = True

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        quote = f"Authorization: Bearer sk-hush-hush, for {request.prompt}"
        if not self.ours:
            raise RuntimeError(quote)
        try:
            raise ValueError(quote)
        except ValueError as error:
            raise BackendError("is broken", model=self.name) from error
        yield Token("")


@pytest.mark.parametrize("ours", [True, False])
def test_an_errors_cause_is_not_quoted(recorded, ours):
    pair = models()
    pair["small"] = Quoting(SCRIPT, name="small", generation_prompt=OPENED)
    pair["small"].ours = ours
    with pytest.raises(BackendError):
        GlimpRouter(**pair, temperature=0, max_retries=0).run("tell nobody")
    (call,) = recorded.calls
    (event,) = call.events
    assert call.status.status_code is trace.StatusCode.ERROR
    assert event.attributes["exception.type"].rpartition(".")[2] == call.attributes["error.type"]
    assert ("is broken" if ours else "an unexpected RuntimeError") in call.to_json()
    assert "hush" not in call.to_json() and "tell nobody" not in call.to_json()


class TestParents:
    def test_a_stream_belongs_to_where_it_was_asked_for(self, recorded):
        async def read(events: Any) -> None:
            async for _ in events:
                pass

        llm = GlimpRouterLLM(**models(), temperature=0)
        with recorded.tracer.start_as_current_span("request") as mine:
            plain, chat = router().stream("q"), llm.stream_chat([ChatMessage(content="q")])
            native = router().astream("q")
        with recorded.tracer.start_as_current_span("elsewhere"):
            list(plain)
            list(chat)
            asyncio.run(read(native))
        assert parents(recorded) == [span_id(mine)] * 3

    def test_interleaved_streams_keep_apart(self, recorded):
        opened = []
        for name in ("a", "b"):
            with recorded.tracer.start_as_current_span(name) as mine:
                opened.append((span_id(mine), GlimpRouter(**models(delay=0.002)).stream("q")))
        left = [events for _, events in opened]
        while left:
            left = [events for events in left if next(events, None) is not None]
        assert sorted(parents(recorded)) == sorted(parent for parent, _ in opened)
        traces = {s.context.trace_id for s in recorded.steps()}
        assert len(traces) == 2
        for call in recorded.calls:
            assert len(recorded.steps(call)) == 3
            assert all(s.context.trace_id == call.context.trace_id for s in recorded.steps(call))

    async def test_batches(self, recorded):
        llm = ChatGlimpRouter(**models(), **ROUTED)
        with recorded.tracer.start_as_current_span("sync") as one:
            llm.batch(["a", "b", "c"])
        with recorded.tracer.start_as_current_span("async") as two:
            await llm.abatch(["a", "b"])
        assert parents(recorded) == [span_id(one)] * 3 + [span_id(two)] * 2

    def test_spans_of_a_backend_are_below_the_call(self, recorded):
        class Traced(ScriptedBackend):
            async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
                with recorded.tracer.start_as_current_span("POST"):
                    pass
                async for token in super().generate(request, report):
                    yield token

        pair = models()
        pair["large"] = Traced(SCRIPT, name="large", generation_prompt=OPENED)
        GlimpRouter(**pair, temperature=0).run("q")
        (call,) = recorded.calls
        posts = [s for s in recorded.exporter.get_finished_spans() if s.name == "POST"]
        assert posts and {s.parent.span_id for s in posts} == {call.context.span_id}


class TestSwitching:
    def test_suppressed_instrumentation_is_silent(self, recorded):
        with suppress_instrumentation():
            router().run("q")
        assert recorded.exporter.get_finished_spans() == ()
        assert recorded.points("glimprouter.calls") == []

    def test_no_hook_is_left_after_it_is_switched_off(self, recorded):
        assert len(call_hooks) == 1
        GlimpInstrumentor().uninstrument()
        assert call_hooks == []

    def test_without_opentelemetry_the_extra_is_named(self):
        code = (
            "import sys\nsys.modules['opentelemetry'] = None\n"
            "from glimp_integrations import ConfigError\n"
            "try:\n    import glimp_integrations.telemetry\n"
            "except ConfigError as error:\n    print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert "pip install 'glimp-integrations[otel]'" in done.stdout

    def test_opentelemetry_instrument_switches_it_on(self, tmp_path):
        """The real command, the entry point of pyproject, spans on standard output."""
        app = tmp_path / "app.py"
        app.write_text(
            "from glimp_integrations import GlimpRouter\n"
            "from test_telemetry import models\n"
            "print(GlimpRouter(**models(), temperature=0).run('a secret question').answer)\n"
        )
        command = Path(sys.executable).with_name("opentelemetry-instrument")
        paths = [*_described(tmp_path), str(ROOT), str(ROOT / "tests")]
        environment = {name: v for name, v in os.environ.items() if not name.startswith("OTEL_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_METRICS_EXPORTER": "console",
            "OTEL_LOGS_EXPORTER": "none",
        }
        done = subprocess.run(
            [str(command), sys.executable, str(app)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.stdout.startswith("Four."), done.stderr
        for name in ("chat small+large", "step large", "glimprouter.steps", "gen_ai.usage"):
            assert name in done.stdout, done.stderr
        assert "a secret question" not in done.stdout


def _described(folder: Path) -> list[str]:
    """Folders that declare the entry points of pyproject, if this checkout is not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    group = "opentelemetry_instrumentor"
    entries = project["entry-points"][group]
    installed = {e.name: e.value for e in entry_points(group=group)}
    if entries.items() <= installed.items():
        return []
    about = folder / "glimp_checkout-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: glimp-checkout\nVersion: 0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    return [str(folder)]


def test_a_reply_that_failed_is_recorded_where_asked_for(recorded, monkeypatch):
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    broken = models()
    broken["large"] = ScriptedBackend(SCRIPT, name="large", generation_prompt=OPENED, fail_after=1)
    with pytest.raises(BackendError):
        GlimpRouter(**broken, temperature=0, max_retries=0).run("q")
    (call,) = recorded.calls
    (reply,) = json.loads(call.attributes["gen_ai.output.messages"])
    assert reply["finish_reason"] == "error"
    assert reply["parts"] == [{"type": "reasoning", "content": "First.\n\nThen"}]
