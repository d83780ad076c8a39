"""What LlamaIndex and programs around it pass to calls, besides routing settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.extractors import DocumentContextExtractor
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.llm import (
    LLMChatStartEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import Document, NodeRelationship, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from pydantic import BaseModel, Field
from scripted_llms import EITHER, HI, TOOLS, WAYS, ask, listening, replies, scripted, thoughts
from scripts import CALL, answer, demanded, tokens
from wire.fake_server import FakeServer, Fault
from wire.helpers import CHAIN

from glimp_integrations import BackendError, ConfigError
from glimp_integrations.backends import OpenAIBackend, ScriptedBackend
from llamaindex_glimp import GlimpRouterLLM

SECRET = "hush-hush-4711"
HEADERS = {"X-Gateway-Token": f"Token {SECRET}", "x-team": "blue"}
JSON = ['{"name": "Anna"}']
PREDICTS = [
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
]


class Person(BaseModel):
    """Somebody."""

    name: str


async def predicted(way: str, llm: Any, cls: type[BaseModel] = Person, **kwargs: Any) -> Any:
    result = getattr(llm, way)(cls, PromptTemplate("Who?"), **kwargs)
    result = await result if way.startswith("a") else result
    if "stream" not in way:
        return result
    items = [i async for i in result] if way.startswith("a") else list(result)
    return items[-1]


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[GlimpRouterLLM, list[FakeServer]]]]:
    """An LLM over two servers, and the servers."""
    servers: list[FakeServer] = []

    def make(**options: Any) -> tuple[GlimpRouterLLM, list[FakeServer]]:
        models = []
        for name in ("small", "large"):
            servers.append(FakeServer(CHAIN, model=name, **options).__enter__())
            models.append(OpenAIBackend(name, base_url=servers[-1].url))
        llm = GlimpRouterLLM(small=models[0], large=models[1], temperature=0, max_retries=0)
        return llm, servers

    yield make
    for server in servers:
        server.__exit__(None, None, None)


class Constraint(SimpleSpanHandler):
    """Keeps what spans are told of: arguments, and whose method it is."""

    def new_span(self, id_: str, bound_args: Any, instance: Any = None, **kwargs: Any) -> Any:
        self.seen.append(f"{bound_args} {instance!r}")
        return super().new_span(id_, bound_args, instance, **kwargs)

    seen: list[str] = Field(default_factory=list)


@contextmanager
def spanning() -> Iterator[list[str]]:
    spans, root = Constraint(), get_dispatcher()
    root.add_span_handler(spans)
    try:
        yield spans.seen
    finally:
        root.span_handlers.remove(spans)


# -- headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_headers_go_to_both_servers_and_end_with_the_call(way: str, served: Any) -> None:
    llm, servers = served()
    assert len(await replies(way, llm, extra_headers=HEADERS)) > 0
    for server in servers:
        sent = [{k.lower(): v for k, v in seen.headers.items()} for seen in server.requests]
        assert sent and all(h["x-gateway-token"] == f"Token {SECRET}" for h in sent)
        assert all(h["x-team"] == "blue" for h in sent)
        server.requests.clear()
    await replies(way, llm)
    # Not what keeps a connection ready behind the first call, and belongs to that.
    asked = [seen for server in servers for seen in server.requests if seen.method == "POST"]
    assert len(asked) > 2
    for seen in asked:
        assert "x-gateway-token" not in {name.lower() for name in seen.headers}


@pytest.mark.parametrize("way", WAYS)
async def test_what_headers_hold_is_seen_by_servers_only(
    way: str, served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    llm, _ = served()
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm.callback_manager = CallbackManager([debug])
    given = {"extra_headers": dict(HEADERS)}
    with spanning() as bound, listening() as heard:
        response = await ask(way, llm, **given)
    assert given == {"extra_headers": HEADERS}, "the caller's own"
    starts = heard.of(LLMChatStartEvent) + heard.of(LLMCompletionStartEvent)
    assert "X-Gateway-Token" in repr(starts[0].additional_kwargs)
    assert bound and "X-Gateway-Token" in bound[0]
    assert "GlimpRouterLLM" in bound[0], "observers are told whose method it is"
    payloads = [
        p for pair in debug.get_event_pairs(CBEventType.LLM) for e in pair for p in [e.payload]
    ]
    for seen in (
        *heard.events,
        *(event.model_dump_json() for event in starts),
        *bound,
        payloads,
        response,
        json.dumps(response.raw),
        llm,
        caplog.text,
    ):
        assert SECRET not in f"{seen!r} {seen}"


@pytest.mark.parametrize("way", PREDICTS)
async def test_headers_of_predictions_are_seen_by_nobody_else(way: str) -> None:
    spans = SimpleSpanHandler()
    seen: list[str] = []
    enter = spans.new_span
    object.__setattr__(
        spans,
        "new_span",
        lambda *a, **k: (seen.append(str(k.get("bound_args"))), enter(*a, **k))[1],
    )
    root = get_dispatcher()
    root.add_span_handler(spans)
    try:
        llm = scripted(*answer(JSON))
        assert (await predicted(way, llm, llm_kwargs={"extra_headers": HEADERS})).name == "Anna"
        await llm.apredict_and_call(TOOLS, "hi", error_on_no_tool_call=False, extra_headers=HEADERS)
    finally:
        root.span_handlers.remove(spans)
    assert any("X-Gateway-Token" in text for text in seen)
    assert SECRET not in "".join(seen)


def test_a_server_that_repeats_headers_does_not_tell_them(served: Any) -> None:
    fault = Fault("status", status=500, body={"error": {"message": f"bad token {SECRET}"}})
    llm, _ = served(faults=[fault])
    with pytest.raises(BackendError, match="bad token") as caught:
        llm.chat(HI, extra_headers=HEADERS)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("way", ["chat", "astream_chat", "complete"])
async def test_headers_that_are_not_sent_are_logged_once(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm = scripted("Hello.")
    for _ in range(2):
        await ask(way, llm, extra_headers=HEADERS)
    (record,) = caplog.records
    assert "X-Gateway-Token" in record.message and "tiny and big" in record.message
    assert SECRET not in record.message


def test_only_the_model_without_a_server_is_named(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    llm, servers = served()
    small = ScriptedBackend(tokens(("First", 2.0), "."), name="tiny")
    mixed = GlimpRouterLLM(small=small, large=llm.large, temperature=0)
    mixed.chat(HI, extra_headers=HEADERS)
    (record,) = caplog.records
    assert record.message.count("tiny") == 1 and "large" not in record.message
    assert all("x-team" in {n.lower() for n in seen.headers} for seen in servers[1].requests)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ("X-Token: abc-secret", "of type str"),
        ({"X-Token": 4711}, "header 'X-Token'.*of type int"),
        ({"X Token": "abc-secret"}, "'X Token', which is not a header name"),
        ({"X-Token": "abc-secret\r\nHost: there"}, "header 'X-Token'.*line breaks"),
        ({"X-Token": "abc-secret \N{SNOWMAN}"}, "beyond ASCII"),
        ({"X-Token": "abc-secret caf\xe9"}, "beyond ASCII"),
        ({"X-Token": "abc-secret\n"}, "header 'X-Token'.*line breaks"),
        ({"X-Token": " abc-secret"}, "white space at an end"),
        ({1: "abc-secret"}, "name 1, which is not a header name"),
    ],
)
@pytest.mark.parametrize("way", EITHER)
async def test_headers_that_are_none_are_named_without_what_they_hold(
    way: str, headers: Any, says: str
) -> None:
    llm = scripted("Hello.")
    with pytest.raises(ConfigError, match=says) as caught:
        await ask(way, llm, extra_headers=headers)
    assert "abc-secret" not in str(caught.value)
    assert llm.small.requests == []


@pytest.mark.parametrize("way", WAYS)
async def test_no_headers_are_none(way: str, caplog: pytest.LogCaptureFixture) -> None:
    for nothing in (None, {}):
        assert await ask(way, scripted("Hello."), extra_headers=nothing)
    assert caplog.records == []


# -- DocumentContextExtractor ----------------------------------------------------------------


async def contexts(llm: Any) -> list[dict[str, Any]]:
    document = Document(text="Anna lives in Graz. She is 34.", id_="doc")
    docstore = SimpleDocumentStore()
    docstore.add_documents([document])
    node = TextNode(text="She is 34.")
    node.relationships[NodeRelationship.SOURCE] = document.as_related_node_info()
    extractor = DocumentContextExtractor(docstore=docstore, llm=llm, max_context_length=1000)
    return await extractor.aextract([node])


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
async def test_nodes_get_their_context(tags: bool, caplog: pytest.LogCaptureFixture) -> None:
    llm = scripted("She", " is Anna.", tags=tags)
    assert await contexts(llm) == [{"context": "She is Anna."}]
    (record,) = caplog.records
    assert "anthropic-beta" in record.message
    assert llm.large.requests[-1].max_tokens <= 512


async def test_nodes_get_their_context_over_http(served: Any) -> None:
    llm, servers = served()
    assert await contexts(llm) == [{"context": "So it is 42."}]
    assert all("anthropic-beta" in {n.lower() for n in s.headers} for s in servers[1].requests)


async def test_elsewhere_thinking_comes_first() -> None:
    response = await ask("achat", scripted("Hello."), extra_headers=HEADERS)
    assert [block.block_type for block in response.message.blocks] == ["thinking", "text"]
    assert thoughts(response.message)


# -- n, stop, None ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_what_ragas_passes_is_taken(way: str) -> None:
    # LlamaIndexLLMWrapper: n, temperature and stop, with every prompt.
    llm = scripted("Hello.", stop=["lo"])
    response = await ask(way, llm, n=1, temperature=1e-8, stop=None)
    text = response.message.content if "chat" in way else response.text
    assert text == "Hel", "None is the setting's"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [0, 2, "1"])
async def test_several_replies_are_refused_by_name(way: str, n: Any) -> None:
    llm = scripted("Hello.")
    with pytest.raises(ConfigError, match=f"n is {n!r}.*one reply"):
        await ask(way, llm, n=n)
    assert llm.small.requests == []


async def test_none_is_no_wish_where_it_is_no_value() -> None:
    llm = scripted("one ", "two ", "three", max_tokens=2, think_tags=("<think>", "</think>"))
    assert (await ask("chat", llm, max_tokens=None, temperature=None, top_p=None)).message.content
    # But elsewhere it is a value.
    await ask("chat", llm, timeout=None)
    assert llm.large.requests[-1].timeout is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["extra_header", "stops", "N", "tool_required"])
async def test_typos_are_still_refused_by_name(way: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown argument '{name}'"):
        await ask(way, scripted("Hello."), **{name: None})


# -- llm_kwargs of predictions ---------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [{"tool_required": True}, {"tool_choice": "any"}, {"allow_parallel_tool_calls": True}]
)
@pytest.mark.parametrize("mode", ["default", "llm", "function"])
@pytest.mark.parametrize("way", PREDICTS)
async def test_words_about_tools_are_dropped_where_there_are_none(
    way: str, mode: str, said: dict[str, Any]
) -> None:
    call = ['{"name": "Person", "arguments": ', *JSON, "}"]
    script = {"default": answer(JSON), "llm": JSON, "function": demanded(call)}[mode]
    llm = scripted(*script, pydantic_program_mode=mode)
    given = dict(said)
    assert (await predicted(way, llm, llm_kwargs=given)).name == "Anna"
    assert given == said, "the caller's own"


def test_structured_llms_take_them_too() -> None:
    llm = scripted(*answer(JSON)).as_structured_llm(Person)
    assert llm.chat(HI, tool_required=True).raw == Person(name="Anna")
    with pytest.raises(ConfigError, match="tool_requird"):
        llm.chat(HI, tool_requird=True)


async def test_calls_of_tools_are_chosen_as_ever() -> None:
    llm = scripted(*demanded(CALL))
    response = await llm.achat_with_tools(TOOLS, "hi", tool_required=True, n=1, stop=None)
    assert llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"city": "Paris"}
