"""Every Python block of README and docs runs on the bundled models and does what it says.

They run as they stand, but for two things: models are greedy, so that a result can be looked at,
and addresses and models that only stand for a reader's own are the bundled ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from llama_index.core import Settings
from llama_index.core.base.llms.types import ThinkingBlock
from snippets import ROOT, snippets

from glimp_integrations import GlimpRouter, Trace
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, ensure
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

SNIPPETS = snippets()
RUN_ELSEWHERE = {
    "how-to/benchmark.md 1": "tests/test_bench_callables.py",
    "how-to/servers.md 2": "tests/wire/test_given_clients.py",
    "how-to/llamaindex.md 3": "tests/bundled/test_llamaindex_conformance.py",
    **{f"how-to/policies.md {number}": "tests/unit/test_policies.py" for number in range(1, 6)},
    "how-to/telemetry.md 1": "tests/test_telemetry.py",
    # Need models of a hub.
    "how-to/local-models.md 1": "tests/test_both_adapters.py",
    "how-to/local-models.md 2": "tests/bundled/test_hf_real_weights.py",
}
"""Blocks that need what this file has not, and the tests that do the same."""
SAME = {"index.md 1": "README.md 1"}
"""Blocks that repeat another, word for word."""

GREEDY = {
    "ChatGlimpRouter()": "ChatGlimpRouter(temperature=0)",
    "GlimpRouterLLM()": "GlimpRouterLLM(temperature=0)",
    "GlimpRouter()": "GlimpRouter(temperature=0)",
    "GlimpRouter(threshold=0.9)": "GlimpRouter(threshold=0.9, temperature=0)",
    "    threshold=1.0,  # nats\n": "    threshold=1.0, temperature=0, max_tokens=32\n",
}
# Pages that ask README's question: that it is answered right is looked at there.
BRIEF = {
    "ChatGlimpRouter()": "ChatGlimpRouter(temperature=0, max_tokens=40)",
    "GlimpRouterLLM()": "GlimpRouterLLM(temperature=0, max_tokens=40)",
}

tested: set[str] = set()


def run(name: str, space: dict[str, Any], **instead: str) -> str:
    """Run a block in a namespace; returns what it printed."""
    tested.add(name)
    code = SNIPPETS[name].code
    for old, new in {**GREEDY, **instead}.items():
        code = code.replace(old, new)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, name, "exec"), space)
    return printed.getvalue()


def namespace(**names: Any) -> dict[str, Any]:
    return {"__name__": "snippet", **names}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """Addresses of real llama.cpp servers with the bundled models."""
    import importlib.util

    path = ROOT / "examples" / "langchain" / "two_endpoints.py"
    spec = importlib.util.spec_from_file_location("two_endpoints_of_snippets", path)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    running = [example.serve(model) for model in (SMALL, LARGE)]
    yield tuple(f"{server.listening_address}/v1" for server in running)
    running.clear()


@pytest.fixture(scope="module")
def started() -> dict[str, Any]:
    """The names of getting-started/langchain.md, block by block."""
    return namespace()


def test_no_block_is_left_out() -> None:
    source = (ROOT / "tests" / "examples" / "test_snippets.py").read_text(encoding="utf-8")
    run_here = set(re.findall(r'\brun\(\s*"([\w./-]+\.md \d+)"', source))
    assert run_here | RUN_ELSEWHERE.keys() | SAME.keys() == SNIPPETS.keys()
    assert not run_here & (RUN_ELSEWHERE.keys() | SAME.keys())
    for place in RUN_ELSEWHERE.values():
        assert (ROOT / place).is_file()
    for copy, original in SAME.items():
        assert SNIPPETS[copy].code == SNIPPETS[original].code


@pytest.mark.bundled
class TestReadme:
    def test_langchain(self) -> None:
        space = namespace()
        printed = run("README.md 1", space)
        message = space["message"]
        assert "24" in message.content and message.content in printed
        assert message.additional_kwargs["reasoning_content"] in printed
        assert message.usage_metadata["total_tokens"] > 0
        assert "large share" in printed and re.search(r"(small|large) model  H \d", printed)

    def test_llamaindex(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Settings, "_llm", None)
        space = namespace()
        printed = run("README.md 2", space)
        assert "24" in space["response"].text and space["response"].text in printed


@pytest.mark.bundled
class TestGettingStarted:
    def test_langchain(self, started: dict[str, Any]) -> None:
        printed = run("getting-started/langchain.md 1", started, **BRIEF)
        message = started["message"]
        assert message.content.strip() and message.content in printed
        assert message.additional_kwargs["reasoning_content"] in printed
        assert message.usage_metadata["total_tokens"] > 0
        printed = run("getting-started/langchain.md 2", started)
        assert "step 1" in printed and "of the tokens are the large model's" in printed

    def test_langchain_structured_output(self, started: dict[str, Any]) -> None:
        run("getting-started/langchain.md 3", started)
        both = started["both"]
        assert both["parsing_error"] is None
        assert isinstance(both["parsed"], started["Bill"])
        assert both["parsed"].total == pytest.approx(8.7)
        reasoning = both["raw"].additional_kwargs["reasoning_content"]
        assert reasoning.strip() and not reasoning.lstrip().startswith("{")

    def test_llamaindex(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Settings, "_llm", None)
        space = namespace()
        printed = run("getting-started/llamaindex.md 1", space, **BRIEF)
        response = space["response"]
        assert response.text.strip() and response.text in printed
        assert response.additional_kwargs["reasoning_content"].strip()
        assert response.raw["usage"]["total_tokens"] > 0
        printed = run("getting-started/llamaindex.md 2", space)
        assert "step 1" in printed and "of the tokens are the large model's" in printed

    def test_without_a_framework(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        space = namespace()
        printed = run("getting-started/without-a-framework.md 1", space)
        assert "391" in space["result"].answer
        assert "large share" in printed
        saved = (tmp_path / "trace.json").read_text(encoding="utf-8")
        assert Trace.from_json(saved) == space["result"].trace

    def test_a_file_of_requests(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        page = (ROOT / "docs" / "how-to" / "batch.md").read_text(encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        (asked,) = re.findall(r"^\{\"custom_id.*$", page, re.MULTILINE)
        (tmp_path / "in.jsonl").write_text(asked + "\n", encoding="utf-8")
        assert run("how-to/batch.md 1", namespace()).startswith("1 0 ")
        line = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
        assert line["custom_id"] == "q1"
        assert "391" in line["response"]["body"]["choices"][0]["message"]["content"]

    def test_events_without_a_framework(self) -> None:
        printed = run("getting-started/without-a-framework.md 2", namespace())
        assert re.search(r"\[(small|large), H = \d", printed)
        assert "391" in printed and re.search(r"\n\d+ tokens", printed)


@pytest.mark.bundled
class TestServersAndAgents:
    def test_your_endpoints(self, servers: tuple[str, str]) -> None:
        small, large = servers
        printed = run(
            "how-to/servers.md 1",
            namespace(),
            **{"http://gpu1:8000/v1": small, "http://gpu2:8000/v1": large},
        )
        assert len(printed) > 50 and "2" in printed

    def test_agent_calls_once_and_answers(self) -> None:
        space = namespace()
        run("how-to/agents.md 1", space)
        messages = space["state"]["messages"]
        calls = [c for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
        assert [(c["name"], c["args"]) for c in calls] == [("get_weather", {"city": "Graz"})]
        assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["Sunny in Graz."]
        answer = messages[-1]
        assert isinstance(answer, AIMessage) and not answer.tool_calls
        assert re.search(r"(?i)sunny", answer.text) and "{" not in answer.text


@pytest.mark.bundled
class TestTools:
    @pytest.mark.slow  # README calls tools and has structured output
    def test_langchain(self) -> None:
        space = namespace()
        run("how-to/tools.md 1", space)
        assert space["message"].tool_calls[0]["name"] == "get_weather"
        assert space["message"].tool_calls[0]["args"] == {"city": "Graz"}
        # What the pair makes of the sum is the models' business: a 1.5B model may well buy two
        # notebooks. That its answer arrives whole, typed and after a chain is this package's.
        both = space["both"]
        assert both["parsing_error"] is None
        assert both["raw"].additional_kwargs["reasoning_content"].strip()
        said = json.loads(both["raw"].text)
        assert said.keys() == {"total", "change"}
        assert both["parsed"].model_dump() == said
        for bill in (space["bill"], both["parsed"]):
            assert isinstance(bill, space["Bill"])

    def test_without_a_framework(self) -> None:
        space = namespace()
        printed = run("how-to/tools.md 2", space)
        assert "get_weather" in printed and "Graz" in printed
        assert json.loads(space["result"].answer) == {"name": "Anna", "age": 34}

    @pytest.mark.filterwarnings("ignore:The function `load` is in beta")
    def test_stored_and_loaded(self) -> None:
        llm = ChatGlimpRouter(temperature=0, max_tokens=32)
        space = namespace(llm=llm, ChatGlimpRouter=ChatGlimpRouter)
        run("how-to/langchain.md 1", space)
        assert space["llm"] is not llm
        assert (space["llm"].temperature, space["llm"].max_tokens) == (0, 32)
        assert space["llm"].invoke("Say hello.").content.strip()


@pytest.mark.bundled
class TestLlamaIndex:
    def test_chat_and_events(self, capsys: pytest.CaptureFixture[str]) -> None:
        from llama_index.core.instrumentation import get_dispatcher

        llm = GlimpRouterLLM(temperature=0, max_tokens=40)
        space = namespace(llm=llm)
        run("how-to/llamaindex.md 1", space)
        response = space["response"]
        assert isinstance(response.message.blocks[0], ThinkingBlock)
        assert response.message.content.strip()
        assert Trace.model_validate(response.raw["glimprouter"]).steps
        handlers = get_dispatcher().event_handlers
        before = list(handlers)
        try:
            run("how-to/llamaindex.md 2", space)
            llm = GlimpRouterLLM(temperature=0, max_tokens=24, step_events=True)
            capsys.readouterr()
            llm.complete("What is 2 + 2?")
            shown = capsys.readouterr().out
        finally:
            handlers[:] = before
        assert re.search(r"(small|large) \d\.\d", shown) and "step 1" in shown


@pytest.mark.bundled
class TestOthers:
    def test_calibrated_threshold(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from glimp_integrations.cli.app import main

        monkeypatch.chdir(tmp_path)
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("What is 2 + 2?\nName a colour.\nWhat is 3 * 4?\n", encoding="utf-8")
        monkeypatch.setattr(
            "sys.argv",
            [
                "glimp",
                "calibrate",
                "--prompts",
                str(prompts),
                "--out",
                "pair.json",
                "--max-tokens",
                "32",
                "--precision",
                "0.6",
            ],
        )
        with contextlib.suppress(SystemExit):
            main()
        small, large = (LlamaCppBackend(ensure(model)) for model in (SMALL, LARGE))
        space = namespace(GlimpRouter=GlimpRouter, small=small, large=large)
        run("how-to/calibrate.md 1", space)
        with space["router"] as router:
            assert router.settings.threshold >= 0

    def test_letters(self) -> None:
        printed = run("how-to/write-a-backend.md 1", namespace())
        page = (ROOT / "docs" / "how-to" / "write-a-backend.md").read_text(encoding="utf-8")
        shown = re.search(r"It prints who wrote what.*?```\n(.*?)```", page, re.DOTALL)
        assert shown is not None
        seconds = re.compile(r"\d+\.\d s")
        assert seconds.sub("", printed).strip() == seconds.sub("", shown[1]).strip()

    @pytest.mark.slow  # two minutes; tests/wire/test_check.py measures fake servers
    def test_measured_speed(self, servers: tuple[str, str]) -> None:
        small, large = servers
        space = namespace(GlimpRouter=GlimpRouter)
        run(
            "how-to/speed.md 1",
            space,
            **{"http://gpu1:8000/v1": small, "http://gpu2:8000/v1": large},
        )
        with space["router"]:
            assert 0 < space["speed"].small.token < space["speed"].large.token < 1
            assert space["speed"].large.prefill > 0

    def test_many_at_once(self) -> None:
        questions = ["What is 2 + 2?", "Name a colour."]
        code = SNIPPETS["how-to/concurrency.md 1"].code
        inside = "async def many():\n" + "".join(f"    {line}\n" for line in code.splitlines())
        space = namespace(
            asyncio=asyncio,
            questions=questions,
            llm=ChatGlimpRouter(temperature=0, max_tokens=24),
            router=GlimpRouter(temperature=0, max_tokens=24),
        )
        replaced = {code: inside + "    return messages, results\n"}
        run("how-to/concurrency.md 1", space, **replaced)
        messages, results = asyncio.run(space["many"]())
        assert "4" in messages[0].content and "4" in results[0].answer
        assert messages[1].content.strip()
