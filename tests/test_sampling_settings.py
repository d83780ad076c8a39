"""top_k, min_p and the penalties through both adapters, telemetry and the command line."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripts import pair
from typer.testing import CliRunner

from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.cli import ask as ask_command
from glimp_integrations.cli import bench as bench_command
from glimp_integrations.cli.app import app
from glimp_integrations.method.sampling import FURTHER_SAMPLING
from glimp_integrations.telemetry import GlimpInstrumentor
from langchain_glimp import ChatGlimpRouter
from langchain_glimp import GlimpRouterLLM as LangChainText
from llamaindex_glimp import GlimpRouterLLM

ALL = {"top_k": 20, "min_p": 0.05, "presence_penalty": 1.5, "repetition_penalty": 1.1}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in ALL.items()]


def sent(models: dict[str, Any]) -> list[dict[str, Any]]:
    requests = [r for model in models.values() for r in model.requests]
    return [{name: getattr(r, name) for name in FURTHER_SAMPLING} for r in requests]


@pytest.mark.parametrize("adapter", [ChatGlimpRouter, LangChainText, GlimpRouterLLM])
def test_a_setting_of_the_model_and_of_one_call(adapter: Any) -> None:
    models = pair("Hi.")
    llm = adapter(**models, temperature=0, **ALL)

    def ask(**kwargs: Any) -> None:
        if adapter is GlimpRouterLLM:
            llm.complete("hi", **kwargs)
        else:
            llm.invoke("hi", **kwargs)

    ask()
    assert sent(models) and all(fields == ALL for fields in sent(models))
    for model in models.values():
        model.requests.clear()
    ask(top_k=5, presence_penalty=None)
    assert all(f == {**ALL, "top_k": 5, "presence_penalty": None} for f in sent(models))
    assert llm.identity["top_k"] == 20


def test_langchains_bind_changes_it_for_its_calls() -> None:
    models = pair("Hi.")
    ChatGlimpRouter(**models, temperature=0).bind(min_p=0.1).invoke("hi")
    assert {f["min_p"] for f in sent(models)} == {0.1}


@pytest.mark.parametrize("name", ["extra_body", "model_kwargs", "additional_kwargs"])
def test_where_other_libraries_put_it_is_answered_with_its_own_place(name: str) -> None:
    llms = ChatGlimpRouter(**pair("Hi.")), GlimpRouterLLM(**pair("Hi."))
    for call in (llms[0].invoke, llms[1].complete):
        with pytest.raises(ConfigError) as caught:
            call("hi", **{name: {"top_k": 20, "min_p": 0.0}})
        for part in (repr(name), "give top_k=..., min_p=...", "OpenAIBackend"):
            assert part in str(caught.value)


def test_a_span_has_what_was_set_and_nothing_else() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    GlimpInstrumentor().instrument(tracer_provider=provider)
    try:
        GlimpRouter(**pair("Hi.")).run("hi", **ALL)
        GlimpRouter(**pair("Hi.")).run("hi")
    finally:
        GlimpInstrumentor().uninstrument()
    names = {
        "gen_ai.request.top_k": 20,
        "gen_ai.request.presence_penalty": 1.5,
        "glimprouter.min_p": 0.05,
        "glimprouter.repetition_penalty": 1.1,
    }
    spans = [s for s in exporter.get_finished_spans() if s.name.startswith("chat ")]
    given, none = [{n: s.attributes[n] for n in names if n in s.attributes} for s in spans]
    assert (given, none) == (names, {})


def test_glimp_ask_has_an_option_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(ask_command, "run", lambda *_, **options: seen.update(options))
    assert CliRunner().invoke(app, ["ask", "hi", *OPTIONS]).exit_code == 0
    assert {name: seen[name] for name in ALL} == ALL


def test_glimp_bench_keeps_what_was_not_given_out_of_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    plans: list[Any] = []

    class Stop(Exception):
        pass

    def plan(_: Any, __: Any, settings: dict[str, Any], *___: Any) -> None:
        plans.append(settings)
        raise Stop

    monkeypatch.setattr(bench_command, "BenchPlan", plan)
    task = tmp_path / "task.jsonl"
    task.write_text('{"question": "1+1?", "answer": "2"}\n')
    for options in (OPTIONS, []):
        CliRunner().invoke(app, ["bench", "--task", str(task), *options])
    assert {name: plans[0][name] for name in ALL} == ALL
    assert not set(ALL) & set(plans[1])
