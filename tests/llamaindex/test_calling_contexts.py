"""Where an LLM is called from: global settings, engines, threads, event loops or none."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from scripted_llms import (
    HI,
    OUTPUT_ARGUMENTS,
    STREAMS,
    TOOLS,
    WAYS,
    ask,
    begin,
    calls,
    endless,
    replies,
    scripted,
    thoughts,
)
from scripts import CALL, PARIS, REASONING, ROUTED, Turns, of_own_accord

from llamaindex_glimp import GlimpRouterLLM

ANSWER = "Hello there."
PIECES = ["Hello ", "there."]
ASYNC = [way for way in WAYS if way.startswith("a")]
SYNC = [way for way in WAYS if not way.startswith("a")]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LlamaIndex's global settings, put back afterwards."""
    for name in ("_llm", "_callback_manager", "_embed_model"):
        monkeypatch.setattr(Settings, name, None)
    Settings.embed_model = MockEmbedding(embed_dim=4)
    return Settings


def in_a_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# -- global settings and engines -------------------------------------------------------------


# Asynchronous, all that build an index: elsewhere LlamaIndex makes a loop and leaves it open.
async def test_the_llm_of_the_settings_is_used(settings: Any) -> None:
    settings.llm = llm = scripted(*PIECES)
    index = VectorStoreIndex.from_documents([Document(text="It is sunny in Paris.")])
    assert str(index.as_query_engine().query("How is it?")) == ANSWER
    assert "It is sunny in Paris." in llm.large.requests[0].prompt
    assert resolve_llm(llm) is settings.llm is llm


def test_the_callbacks_of_the_settings_see_the_call(settings: Any) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    settings.callback_manager = CallbackManager([counter])
    settings.llm = scripted(*PIECES)
    response = settings.llm.complete("hi")
    assert counter.total_llm_token_count == response.raw["usage"]["total_tokens"]


@pytest.mark.parametrize("way", STREAMS)
async def test_an_open_stream_outlives_the_settings(settings: Any, way: str) -> None:
    settings.llm = scripted(*PIECES)
    stream = await begin(way, settings.llm)
    first = await anext(stream) if way.startswith("a") else next(stream)
    settings.llm = other = scripted("Something else.")
    rest = [item async for item in stream] if way.startswith("a") else list(stream)
    assert str(rest[-1]).endswith(ANSWER) and first.raw is None
    assert other.large.requests == []


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_query_engines_answer(settings: Any, mode: Any) -> None:
    index = VectorStoreIndex.from_documents([Document(text="It is sunny.")])
    engine = index.as_query_engine(llm=scripted(*PIECES), response_mode=mode)
    assert str(engine.query("how?")).endswith(ANSWER)
    assert str(await engine.aquery("how?")).endswith(ANSWER)
    streaming = index.as_query_engine(llm=scripted(*PIECES), streaming=True)
    assert "".join(streaming.query("how?").response_gen) == ANSWER


async def test_chat_engines_answer_and_remember() -> None:
    llm = scripted(*PIECES)
    # Not LlamaIndex's default, which leaves a database connection behind.
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=ChatMemoryBuffer.from_defaults(llm=llm))
    assert str(engine.chat("one")) == ANSWER
    assert "".join(engine.stream_chat("two").response_gen) == ANSWER
    assert str(await engine.achat("three")) == ANSWER
    stream = await engine.astream_chat("four")
    assert "".join([text async for text in stream.async_response_gen()]) == ANSWER
    said = [message.content for message in engine.chat_history]
    assert said == ["one", ANSWER, "two", ANSWER, "three", ANSWER, "four", ANSWER]
    assert REASONING not in llm.large.conversations[-1][1]["content"]


async def test_a_rate_limiter_is_asked() -> None:
    asked = []

    class Limiter(TokenBucketRateLimiter):
        def acquire(self, num_tokens: int = 0) -> None:
            asked.append("sync")

        async def async_acquire(self, num_tokens: int = 0) -> None:
            asked.append("async")

    llm = scripted(*PIECES, rate_limiter=Limiter(requests_per_minute=60))
    for way in WAYS:
        await ask(way, llm)
    assert asked == ["sync", "sync", "async", "async"] * 2


# -- loops and threads -----------------------------------------------------------------------


@pytest.mark.parametrize("way", SYNC)
async def test_synchronous_calls_work_inside_a_running_loop(way: str) -> None:
    assert str(await ask(way, scripted(*PIECES))).endswith(ANSWER)


@pytest.mark.parametrize("way", ASYNC)
def test_a_loop_may_be_new_in_a_thread(way: str) -> None:
    llm = scripted(*PIECES)
    for _ in range(2):
        reply = in_a_thread(lambda: asyncio.run(ask(way, llm)))
        assert str(reply).endswith(ANSWER)


@pytest.mark.parametrize("way", ASYNC)
def test_coroutines_run_as_llamaindex_runs_them(way: str) -> None:
    llm = scripted(*PIECES)
    assert str(in_a_thread(lambda: asyncio_run(ask(way, llm)))).endswith(ANSWER)

    async def nested() -> Any:
        return asyncio_run(ask(way, llm))

    assert str(asyncio.run(nested())).endswith(ANSWER)


@pytest.mark.parametrize("way", ASYNC)
def test_without_a_loop_the_error_says_what_to_do(way: str) -> None:
    llm = endless()
    errors: list[BaseException] = []

    def drive() -> None:
        coroutine = begin(way, llm)
        try:
            coroutine.send(None)
        except StopIteration as done:
            with pytest.raises(RuntimeError) as caught:
                done.value.asend(None).send(None)
            errors.append(caught.value)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    (error,) = errors
    assert "needs a running asyncio loop" in str(error) and "synchronous twin" in str(error)
    assert llm.small.requests == llm.large.requests == [], "nothing was left running"
    assert str(scripted(*PIECES).complete("hi")) == ANSWER


def test_many_threads_share_an_llm() -> None:
    llm = scripted(*PIECES)
    with ThreadPoolExecutor(16) as pool:
        result = [*pool.map(lambda n: llm.complete(f"question {n}"), range(48))]
    assert [reply.text for reply in result] == [ANSWER] * 48
    assert len({request.prompt for request in llm.large.requests}) == 96


async def test_many_calls_at_once_keep_apart() -> None:
    backend = Turns(of_own_accord(CALL), ["Sunny."], name="both")
    llm = GlimpRouterLLM(small=backend, large=backend, **ROUTED)
    tools = [tool.metadata.to_openai_tool() for tool in TOOLS]
    result = await asyncio.gather(*(ask(WAYS[n % 4], llm, tools=tools) for n in range(12)))
    assert [calls(response.message) for response in result] == [[PARIS]] * 12
    assert {*map(str, (thoughts(response.message) for response in result))} == {str([REASONING])}
    ids = {response.message.blocks[-1].tool_call_id for response in result}
    assert len(ids) == 12


async def test_a_stream_is_read_by_another_thread() -> None:
    stream = scripted(*PIECES).stream_chat(HI)
    next(stream)
    rest = await asyncio.to_thread(list, stream)
    assert rest[-1].message.content == ANSWER


@pytest.mark.parametrize("way", ["astream_chat", "astream_complete"])
@pytest.mark.parametrize(
    "step_events",
    [False, True],
)
def test_a_loop_that_ends_closes_what_was_left_in_peace(
    way: str, step_events: bool, caplog: pytest.LogCaptureFixture
) -> None:
    llm = endless(step_events=step_events)

    async def leave() -> None:
        async for _ in await begin(way, llm):
            break

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        asyncio.run(leave())
    assert llm.small.closed_early == 1
    assert [record.message for record in caplog.records] == []


def test_models_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_SMALL", OUTPUT_ARGUMENTS.format("S"))
    monkeypatch.setenv("GLIMP_LARGE", OUTPUT_ARGUMENTS.format("L"))
    llm = GlimpRouterLLM()
    assert llm.pair_name == "S+L"
    assert GlimpRouterLLM().router.small is llm.router.small


def test_messages_may_be_any_sequence() -> None:
    llm = scripted(*PIECES)
    assert llm.chat((ChatMessage("hi"),)).message.content == ANSWER
    assert [*asyncio.run(replies("astream_chat", llm, (ChatMessage("hi"),)))][-1].raw
