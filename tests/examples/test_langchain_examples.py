"""Every example of examples/langchain runs as it stands and does what its docstring says.

They are run by calling ``main`` on the bundled models, greedily, on the smallest budget that still
lets them come to a result.
"""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from loading import Load, authors, loader, trace_in

from glimp_integrations import Trace
from glimp_integrations.weights import SMALL

pytestmark = pytest.mark.bundled


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    return loader("langchain", monkeypatch)


def trace_of(message: Any) -> Trace:
    return trace_in(message.response_metadata)


@pytest.mark.slow  # README's first block is such a chain
def test_chain_gives_the_answer_and_who_wrote_it(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    # H of the steps is 0.5 or less, or 1 or more: no rounding can change an author.
    outcome = load("chain").main(max_tokens=300, threshold=0.75)
    assert "34" in outcome["answer"]  # 7 * 12 - 50
    assert "step" not in outcome["answer"].lower()  # the last step only
    assert authors(outcome["trace"]) == {"small", "large"}
    assert outcome["trace"].stop_reason == "eos"
    shown = capsys.readouterr().out
    assert "step 1" in shown and "large share" in shown


def test_streaming_shows_steps_that_chunks_add_up_to(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks = load("streaming").main(max_tokens=40)
    assert len(chunks) > 2
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    trace = trace_of(whole)
    written = whole.additional_kwargs["reasoning_content"] + whole.content
    assert written == "".join(step.text for step in trace.steps)
    assert whole.response_metadata["finish_reason"] == "length"
    live = capsys.readouterr().out.split("chunks add up to")[0]
    for step in trace.steps:
        assert f"step {step.index + 1}  {step.author} model  H {step.entropy:.2f}" in live
        assert step.text.strip() in live


@pytest.mark.slow  # README has an agent, too
def test_agent_uses_its_tool_and_then_answers(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = load("agent").main()
    kinds = [type(message) for message in messages]
    assert kinds[0] is HumanMessage and ToolMessage in kinds
    called = messages[kinds.index(ToolMessage)]
    assert (called.name, called.content) == ("days_between", "46")
    last = messages[-1]
    assert isinstance(last, AIMessage) and not last.tool_calls and not last.invalid_tool_calls
    assert "46" in last.text
    shown = capsys.readouterr().out
    assert shown.count("Ai Message") == kinds.count(AIMessage)
    assert "days_between" in shown and last.text in shown


def test_the_agents_tools_compute_and_nothing_else(load: Load) -> None:
    agent = load("agent")
    assert agent.calculator.invoke({"expression": "-3 * (4 + 5) / 2"}) == -13.5
    for dangerous in ("__import__('os')", "(1).__class__", "'a' * 3", "2 ** 99999"):
        with pytest.raises(ValueError, match="not arithmetic"):
            agent.calculator.invoke({"expression": dangerous})
    dates = {"start": "2024-02-28", "end": "2024-03-01"}
    assert agent.days_between.invoke(dates) == 2
    assert agent.count_words.invoke({"text": "one two  three"}) == 3


def test_graph_goes_by_the_tool_and_keeps_a_trace_of_every_call(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load("graph").main()
    messages = state["messages"]
    results = [m.content for m in messages if isinstance(m, ToolMessage)]
    assert results and set(results) == {"34.90 euros"}
    last = messages[-1]
    assert isinstance(last, AIMessage) and not last.tool_calls
    assert "34.90" in last.text
    replies = [m for m in messages if isinstance(m, AIMessage)]
    assert state["traces"] == [trace_of(m) for m in replies]
    shown = capsys.readouterr().out
    assert "--> tools" in shown and "who wrote what" in shown


@pytest.mark.slow  # tests/bundled/test_llamaindex_query_engines.py answers from an index
def test_rag_answers_from_the_reference_and_names_its_sources(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    rag = load("rag")
    found = rag.main(longest=5_000)
    assert found["sources"][0] == "for"
    assert len(found["passages"]) == 4
    assert 'without executing the "else"' in found["passages"][0].page_content
    assert "break" in found["message"].content
    shown = capsys.readouterr().out
    assert int(shown.split(" passages indexed")[0]) >= 200
    assert f"sources: {', '.join(found['sources'])}" in shown


def test_passages_are_short_and_come_once(load: Load) -> None:
    rag = load("rag")
    pieces = list(rag.passages(14_000))
    assert len(pieces) > 500
    assert max(len(piece.page_content) for piece in pieces) <= 500
    assert len({piece.page_content for piece in pieces}) == len(pieces)
    # Nothing is lost: every paragraph of a short topic is in some passage.
    everything = "\n\n".join(piece.page_content for piece in pieces)
    for paragraph in rag.topics["for"].split("\n\n"):
        assert paragraph.strip("\n")[:400] in everything


@pytest.mark.slow  # README's endpoints are such servers
def test_two_endpoints_starts_its_own_servers(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    message = load("two_endpoints").main(max_tokens=96)
    trace = trace_of(message)
    assert trace.small_model == "Qwen2.5-Coder-0.5B-Instruct"
    assert trace.large_model == "Qwen2.5-Coder-1.5B-Instruct"
    assert "small" in authors(trace)
    assert message.usage_metadata["output_tokens"] >= sum(step.tokens for step in trace.steps) > 0
    shown = capsys.readouterr().out
    assert shown.count("http://127.0.0.1:") == 2


def test_two_endpoints_takes_servers_that_are_there(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("two_endpoints")
    server = example.serve(SMALL)  # for both roles: what counts is who is asked
    url = f"{server.listening_address}/v1"
    message = example.main(small=url, large=url, question="Say hello.", max_tokens=16)
    trace = trace_of(message)
    assert trace.small_model == trace.large_model == "Qwen2.5-Coder-0.5B-Instruct"
    assert message.content.strip()
    assert capsys.readouterr().out.count(url) == 2


@pytest.mark.slow  # so does README (a bill)
def test_extraction_thinks_freely_and_gives_a_valid_object(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    extraction = load("extraction")
    found = extraction.main()
    assert found["parsing_error"] is None
    order = found["parsed"]
    assert isinstance(order, extraction.Order)
    assert (order.customer, order.city, order.total) == ("Clara Bauer", "Linz", 44)
    assert [(item.quantity, item.unit_price) for item in order.items] == [(4, 5), (2, 12)]
    reasoning = found["raw"].additional_kwargs["reasoning_content"]
    assert "44" in reasoning and not reasoning.lstrip().startswith("{")
    assert found["raw"].content.startswith("{") and found["raw"].content.endswith("}")
    assert authors(trace_of(found["raw"])) == {"small", "large"}
    assert "total=44" in capsys.readouterr().out
