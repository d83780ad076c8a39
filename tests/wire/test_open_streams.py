"""Streams of the adapters that nobody closed when the caller's event loop ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from langchain_glimp import ChatGlimpRouter
from langchain_glimp import GlimpRouterLLM as LangChainLLM
from llamaindex_glimp import GlimpRouterLLM as LlamaIndexLLM
from wire.fake_server import THINKING_TEMPLATE

ENDLESS = ["<think>", "\n"] + ["a", " b", ".\n\n"] * 2000


async def langchain_chat(**models: Any) -> Any:
    return ChatGlimpRouter(**models).astream("?")


async def langchain_llm(**models: Any) -> Any:
    return LangChainLLM(**models, untagged_answer="whole").astream("?")


async def llamaindex_chat(**models: Any) -> Any:
    return await LlamaIndexLLM(**models).astream_chat([ChatMessage(content="?")])


async def llamaindex_chat_with_events(**models: Any) -> Any:
    return await LlamaIndexLLM(**models, step_events=True).astream_chat([ChatMessage(content="?")])


async def llamaindex_completion(**models: Any) -> Any:
    return await LlamaIndexLLM(**models).astream_complete("?")


@pytest.mark.parametrize("reading", [False, True], ids=["between items", "waiting for an item"])
@pytest.mark.parametrize(
    "begin",
    [
        langchain_chat,
        langchain_llm,
        llamaindex_chat,
        llamaindex_chat_with_events,
        llamaindex_completion,
    ],
)
def test_a_stream_left_open_ends_quietly(
    serve: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    begin: Callable[..., Any],
    reading: bool,
) -> None:
    small, large = (
        serve(ENDLESS, delay=0.005, template=THINKING_TEMPLATE, model=name)
        for name in ("small", "large")
    )
    kept = []

    async def leave_open() -> None:
        stream = await begin(
            small=small.model_string,
            large=large.model_string,
            strategy="two_request",
            temperature=0.0,
        )
        kept.append(stream)

        async def read() -> None:
            async for _ in stream:
                if not reading:
                    return

        kept.append(asyncio.create_task(read()))
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if small.active and (reading or kept[-1].done()):
                return

    asyncio.run(leave_open())
    assert small.wait_for(lambda: not small.active and not large.active, 10.0)
    # A call that went on would ask for its next step within milliseconds.
    requests = len(small.requests) + len(large.requests)
    assert requests
    time.sleep(0.2)
    assert len(small.requests) + len(large.requests) == requests
    kept.clear()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
