"""Every example of examples/llamaindex runs as it stands and does what its docstring says.

They are run by calling ``main`` on the bundled models, greedily, on the smallest budget that still
lets them come to a result.
"""

from pathlib import Path

import pytest
from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentOutput, ToolCallResult
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from loading import Load, authors, loader, trace_in

pytestmark = [
    pytest.mark.bundled,
    # LlamaIndex's agents look at all attributes of their own, deprecated ones of pydantic included.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    # What an example sets for all of LlamaIndex is forgotten after the test.
    monkeypatch.setattr(Settings, "_llm", None)
    return loader("llamaindex", monkeypatch)


@pytest.mark.slow  # README completes, too
def test_completion_sets_the_default_and_shows_who_wrote_the_answer(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    # H of the steps is 0.4 or less, or 1.6 or more: no rounding can change an author.
    response = load("completion").main(max_tokens=256)
    assert "75" in response.text  # 8 * 15 - 45
    assert "Step" not in response.text  # the last step only
    trace = trace_in(response.raw)
    assert authors(trace) == {"small", "large"}
    assert trace.stop_reason == "eos"
    assert Settings.llm.class_name() == "glimprouter_llm"
    shown = capsys.readouterr().out
    assert response.text in shown
    assert "step 1" in shown and "large share" in shown


def test_streaming_shows_chunks_and_then_steps(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = list(get_dispatcher().event_handlers)
    chunks, others = load("streaming").main(max_tokens=40)
    assert get_dispatcher().event_handlers == handlers
    shown, live = capsys.readouterr().out.split("step by step")

    assert len(chunks) > 2
    thought = "".join(c.additional_kwargs.get("thinking_delta", "") for c in chunks)
    answer = "".join(c.delta or "" for c in chunks)
    message = chunks[-1].message
    assert (thought, answer) == (message.blocks[0].content, message.content)
    assert thought and answer
    assert "model  H" not in shown
    for line in (thought + answer).split("\n"):
        assert line[:70].strip() in shown

    trace = trace_in(others[-1].raw)
    assert authors(trace) == {"small", "large"}
    for step in trace.steps:
        assert f"step {step.index + 1}  {step.author} model  H {step.entropy:.2f}" in live
        assert step.text.strip() in live


@pytest.mark.slow  # tests/bundled/test_llamaindex_react.py has an agent
def test_the_agent_uses_its_tool_and_then_answers(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    events = load("function_agent").main()
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [(r.tool_name, r.tool_output.content) for r in results] == [("days_between", "46")]
    outputs = [event for event in events if isinstance(event, AgentOutput)]
    assert len(outputs) == 2
    assert "46" in str(outputs[-1])
    shown = capsys.readouterr().out
    assert "calls days_between" in shown and "days_between returns 46" in shown
    assert str(outputs[-1])[:70] in shown


def test_the_agents_tools_compute_and_nothing_else(load: Load) -> None:
    agent = load("function_agent")
    assert agent.calculator("-3 * (4 + 5) / 2") == -13.5
    for dangerous in ("__import__('os')", "(1).__class__", "'a' * 3", "2 ** 99999"):
        with pytest.raises(ValueError, match="not arithmetic"):
            agent.calculator(dangerous)
    assert agent.days_between(start="2024-02-28", end="2024-03-01") == 2
    assert agent.count_words("one two  three") == 3


@pytest.mark.slow
def test_the_workflow_hands_over_from_one_agent_to_the_other(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    events = load("workflow").main()
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [result.tool_name for result in results] == ["price_of", "handoff"]
    assert results[0].tool_output.content == "34.90 euros"
    assert results[1].tool_kwargs["to_agent"] == "writer"
    outputs = [event for event in events if isinstance(event, AgentOutput)]
    at_work = [output.current_agent_name for output in outputs]
    assert at_work == ["researcher", "researcher", "writer"]
    assert "34.90" in str(outputs[-1])
    shown = capsys.readouterr().out
    assert f"writer: {outputs[-1]}"[:70] in shown and "who wrote what" in shown


@pytest.mark.slow  # tests/bundled/test_llamaindex_query_engines.py answers from an index
def test_rag_cites_its_sources_and_indexes_once(
    load: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rag = load("rag")
    response = rag.main(longest=3_000, folder=tmp_path)
    assert "break" in str(response)
    cited = rag.citations(response)
    assert cited
    assert any(
        source.metadata["topic"] == "for" and 'without executing the "else"' in source.text
        for source in cited.values()
    )
    shown = capsys.readouterr().out
    assert int(shown.split(" passages indexed")[0]) >= 100
    for number in cited:
        assert f"[{number}] for" in shown

    # The second start finds what the first one wrote.
    def embed(*_: object, **__: object) -> None:
        raise AssertionError("passages are embedded again")

    monkeypatch.setattr(BaseEmbedding, "get_text_embedding_batch", embed)
    again = rag.main(longest=3_000, folder=tmp_path)
    assert "index opened" in capsys.readouterr().out
    assert str(again) == str(response)
    assert [n.text for n in again.source_nodes] == [n.text for n in response.source_nodes]


def test_an_index_of_other_passages_is_made_anew(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rag = load("rag")
    client = rag.QdrantClient(path=str(tmp_path))
    for longest in (600, 900, 900):
        nodes = rag.passages(longest)
        index = rag.opened(client, nodes, rag.Console())
        (found,) = index.as_retriever(similarity_top_k=1).retrieve(nodes[-1].text)
        assert found.text == nodes[-1].text
        assert client.count("python-reference").count == len(nodes)
    client.close()
    first, second, third = capsys.readouterr().out.splitlines()
    assert "indexed" in first and "indexed" in second and "opened" in third


def test_passages_are_short_and_come_once(load: Load) -> None:
    rag = load("rag")
    nodes = rag.passages(14_000)
    assert len(nodes) > 500
    assert max(len(node.text) for node in nodes) <= 500
    assert len({node.text for node in nodes}) == len(nodes)
    # Nothing is lost: every paragraph of a short topic is in some passage.
    everything = "\n\n".join(node.text for node in nodes)
    for paragraph in rag.topics["for"].split("\n\n"):
        assert paragraph.strip("\n")[:400] in everything


@pytest.mark.slow  # so does the notebook (a bill)
def test_extraction_thinks_freely_and_gives_a_valid_object(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    extraction = load("extraction")
    handlers = list(get_dispatcher().event_handlers)
    order, reply = extraction.main()
    assert get_dispatcher().event_handlers == handlers
    assert isinstance(order, extraction.Order)
    assert (order.customer, order.city, order.total) == ("Clara Bauer", "Linz", 44)
    assert [(item.quantity, item.unit_price) for item in order.items] == [(4, 5), (2, 12)]
    assert "44" in reply.reasoning and not reply.reasoning.lstrip().startswith("{")
    assert extraction.Order.model_validate_json(reply.answer) == order
    assert authors(reply.trace) == {"small", "large"}
    assert "total=44" in capsys.readouterr().out
