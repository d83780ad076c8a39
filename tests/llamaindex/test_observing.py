"""What observers of LlamaIndex hear: events, spans, callbacks; and that nobody stops a reply."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.events.span import SpanDropEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from rich.console import Console
from scripted_llms import STREAMS, TOOLS, WAYS, ask, begin, endless, listening, replies, scripted
from scripts import CALL, REASONING, demanded

from glimp_integrations import BackendError, ConfigError, Finished
from glimp_integrations.trace import events
from llamaindex_glimp import (
    RoutedReplyEvent,
    RoutedStepEndEvent,
    RoutedStepInProgressEvent,
    RoutedStepStartEvent,
    RoutingEvent,
    StepPrinter,
)

CHAT = (LLMChatStartEvent, LLMChatInProgressEvent, LLMChatEndEvent)
COMPLETION = (LLMCompletionStartEvent, LLMCompletionInProgressEvent, LLMCompletionEndEvent)


def kinds(way: str) -> Any:
    return CHAT if "chat" in way else COMPLETION


# -- LlamaIndex's own events -----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_begins_and_ends_once(way: str) -> None:
    llm = scripted("Hel", "lo.")
    with listening() as heard:
        result = await replies(way, llm)
    starts, parts, ends = (heard.of(kind) for kind in kinds(way))
    assert (len(starts), len(ends)) == (1, 1)
    assert [part.response for part in parts] == (result if "stream" in way else [])
    assert ends[0].response is result[-1]
    assert heard.of(RoutingEvent) == [], "nobody asked for them"
    assert starts[0].model_dict["model_name"] == "tiny+big"
    json.dumps(starts[0].model_dict)
    (span,) = {event.span_id for event in heard.events}
    assert span.startswith(f"GlimpRouterLLM.{way}-")


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_is_one_span(way: str) -> None:
    spans = SimpleSpanHandler()
    root = get_dispatcher()
    root.add_span_handler(spans)
    try:
        await replies(way, scripted("Hello."))
    finally:
        root.span_handlers.remove(spans)
    assert [span.id_.partition("-")[0] for span in spans.completed_spans] == [
        f"GlimpRouterLLM.{way}"
    ]
    assert spans.open_spans == {} and spans.dropped_spans == []


@pytest.mark.parametrize("way", WAYS)
async def test_callbacks_come_in_pairs(way: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = scripted("Hello.", callback_manager=CallbackManager([debug]))
    await replies(way, llm, threshold=0.5)
    ((start, end),) = debug.get_event_pairs(CBEventType.LLM)
    assert start.payload[EventPayload.ADDITIONAL_KWARGS] == {"threshold": 0.5}
    told = EventPayload.RESPONSE if "chat" in way else EventPayload.COMPLETION
    assert str(end.payload[told]).endswith("Hello.")


# -- routing events --------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_steps_are_reported_as_events_of_the_call(way: str) -> None:
    llm = scripted("Hel", "lo.", step_events=True)
    with listening() as heard:
        await replies(way, llm)
    told = heard.of(RoutingEvent)
    assert len({event.span_id for event in heard.events}) == 1, "all of one call"
    starts, ends = heard.of(RoutedStepStartEvent), heard.of(RoutedStepEndEvent)
    assert [(e.event.author, e.event.is_answer) for e in starts] == [
        ("small", False),
        ("large", False),
        ("large", True),
    ]
    assert starts[1].event.entropy == pytest.approx(2.0)
    assert [e.record.author for e in ends] == ["small", "large", "large"]
    texts = [e.event for e in heard.of(RoutedStepInProgressEvent)]
    assert "".join(t.text for t in texts if t.kind == "reasoning") == REASONING
    assert "".join(t.text for t in texts if t.kind == "answer") == "Hello."
    (reply,) = heard.of(RoutedReplyEvent)
    assert told[-1] is reply and isinstance(reply.event, Finished)
    assert (reply.result.answer, reply.result.reasoning) == ("Hello.", REASONING)


async def test_parts_of_calls_are_reported() -> None:
    with listening() as heard:
        llm = scripted(*demanded(CALL), step_events=True)
        llm.chat_with_tools(TOOLS, "hi", tool_required=True)
    pieces = [e.event for e in heard.of(RoutedStepInProgressEvent)]
    written = "".join(p.arguments for p in pieces if isinstance(p, events.ToolCallDelta))
    assert json.loads(written) == {"city": "Paris"}
    assert heard.of(RoutedReplyEvent)[0].result.tool_calls[0].name == "get_weather"


async def test_routing_events_are_plain_data_if_need_be() -> None:
    with listening() as heard:
        scripted("Hello.", step_events=True).complete("hi")
    told = heard.of(RoutingEvent)
    for event in told:
        stored = json.loads(json.dumps(event.model_dump(mode="json")))
        assert events.from_dict(stored["event"]) == event.event
        assert stored["class_name"] == type(event).__name__ == event.class_name()
        assert stored["span_id"] == event.span_id
        assert event.dict()["event"]["type"] == stored["event"]["type"]
        json.loads(event.model_dump_json())


def test_fields_of_events_may_be_left_out() -> None:
    event = RoutedStepStartEvent(event=events.StepStarted(0, "small", 1.0, False))
    result = event.model_dump(exclude={"tags"})
    assert "tags" not in result and result["event"]["type"] == "step_started"


@pytest.mark.parametrize("way", WAYS)
async def test_the_printer_shows_steps(way: str) -> None:
    written = io.StringIO()
    printer = StepPrinter(console=Console(file=written, width=80, no_color=True))
    with listening(printer):
        await replies(way, scripted("Hel", "lo.", step_events=True))
        assert printer.result is not None and printer.result.answer == "Hello."
        before = written.getvalue()
        await replies(way, scripted("Not shown."))
    assert "large model  H 2.00" in before and "Hello." in before
    assert written.getvalue() == before


@pytest.mark.parametrize("way", WAYS)
async def test_a_handler_that_fails_breaks_no_reply(way: str) -> None:
    class Broken(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            raise KeyError("a mistake in a handler")

    with listening(Broken()):
        response = await ask(way, scripted("Hello.", step_events=True))
    assert str(response).endswith("Hello.")


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_is_reported_with_what_was_written(way: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([debug])
    llm = scripted("Hel", "lo.", max_retries=0, callback_manager=manager, step_events=True)
    llm.large._fail_after = 4  # Then | . | </think> | Hel
    with listening() as heard, pytest.raises(BackendError) as caught:
        await replies(way, llm)
    partial = caught.value.partial
    assert partial is not None and partial.reasoning == REASONING
    assert caught.value.role == "large"
    failures = [e.exception for e in heard.of(ExceptionEvent)]
    if "stream" in way:
        assert failures == [caught.value]
    else:
        assert len(heard.of(SpanDropEvent)) == 1
    assert heard.of(kinds(way)[2]) == [] == heard.of(RoutedReplyEvent)
    ((_, end),) = debug.get_event_pairs(CBEventType.LLM)
    assert end.payload[EventPayload.EXCEPTION] is caught.value


@pytest.mark.parametrize("way", WAYS)
async def test_a_mistake_of_the_caller_is_reported_as_well(way: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = scripted("x", callback_manager=CallbackManager([debug]))
    with pytest.raises(ConfigError):
        await replies(way, llm, tempreature=1)
    ((_, end),) = debug.get_event_pairs(CBEventType.LLM)
    assert isinstance(end.payload[EventPayload.EXCEPTION], ConfigError)


# -- stopping --------------------------------------------------------------------------------


async def stopped(llm: Any) -> None:
    async with asyncio.timeout(5):
        while not llm.small.closed_early:
            await asyncio.sleep(0.01)


async def left(way: str, llm: Any) -> Any:
    """A stream that was begun and closed."""
    stream = await begin(way, llm)
    if way.startswith("a"):
        await anext(stream)
        await stream.aclose()
    else:
        next(stream)
        stream.close()
    return stream


@pytest.mark.parametrize("step_events", [False, True])
@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_that_is_closed_stops_the_models(way: str, step_events: bool) -> None:
    llm = endless(step_events=step_events)
    await left(way, llm)
    if not way.startswith("a"):
        assert llm.small.closed_early == 1
    await stopped(llm)
    assert llm.small.closed_early == 1 and len(llm.small.requests) == 1


@pytest.mark.parametrize("way", ["astream_chat", "astream_complete"])
async def test_closing_waits_until_the_models_have_stopped(way: str) -> None:
    llm = endless()
    await left(way, llm)
    assert llm.small.closed_early == 1


@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_that_is_closed_stops_the_models_whoever_looks_on(way: str) -> None:
    manager = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    llm = endless(callback_manager=manager)
    try:
        await left(way, llm)
        async with asyncio.timeout(0.5):
            await stopped(llm)
    finally:
        # Nothing is left behind for the tests after this one.
        llm.small._next = llm.large._next = lambda _: (b"", 0.0)
        manager.handlers.clear()
        gc.collect()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("a")])
async def test_cancelling_stops_the_models(way: str) -> None:
    llm = endless(step_events=True)
    task = asyncio.create_task(replies(way, llm))
    async with asyncio.timeout(5):
        while not llm.small._generated:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (llm.small.closed_early, len(llm.small.requests)) == (1, 1)


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("a")])
async def test_a_timeout_stops_the_models(way: str) -> None:
    llm = endless()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await replies(way, llm)
    assert llm.small.closed_early == 1


@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_nobody_reads_asks_nothing(way: str) -> None:
    llm = scripted("x")
    stream = await begin(way, llm)
    await (stream.aclose() if way.startswith("a") else asyncio.sleep(stream.close() or 0))
    assert llm.small.requests == llm.large.requests == []
