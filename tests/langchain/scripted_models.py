"""Chat models over scripts, and the ways to ask one: what the tests beside this file share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from scripts import ROUTED, pair

from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM

WAYS = ["invoke", "stream", "ainvoke", "astream"]
EITHER = ["invoke", "astream"]
"""Where the way matters little."""


def chat(
    *text: str, tags: bool = True, supports_schema: bool = True, of: Any = None, **options: Any
) -> ChatGlimpRouter:
    """A chat model over two models of one script; ``of`` goes to the backends."""
    models = pair(*text, tags=tags, supports_schema=supports_schema, **(of or {}))
    return ChatGlimpRouter(**models, **ROUTED, **options)


def text_model(*text: str, of: Any = None, **options: Any) -> GlimpRouterLLM:
    return GlimpRouterLLM(**pair(*text, **(of or {})), **ROUTED, **options)


def added(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    total, *rest = chunks
    for chunk in rest:
        total += chunk
    return total


async def ask(way: str, llm: Any, given: Any = "hi", **kwargs: Any) -> AIMessage:
    """The message, streamed or not, awaited or not."""
    if way == "invoke":
        return llm.invoke(given, **kwargs)
    if way == "ainvoke":
        return await llm.ainvoke(given, **kwargs)
    if way == "stream":
        return added(list(llm.stream(given, **kwargs)))
    return added([chunk async for chunk in llm.astream(given, **kwargs)])


def called(message: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]
