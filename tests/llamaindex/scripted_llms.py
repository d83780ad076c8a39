"""LLMs over scripts, and the ways to ask one: what the tests beside this file share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.tools import FunctionTool
from pydantic import Field
from scripts import ROUTED, clock, get_weather, pair

from glimp_integrations.backends import ScriptedBackend
from llamaindex_glimp import GlimpRouterLLM

CHATS = ["chat", "stream_chat", "achat", "astream_chat"]
COMPLETIONS = ["complete", "stream_complete", "acomplete", "astream_complete"]
STREAMS = ["stream_chat", "astream_chat", "stream_complete", "astream_complete"]
WAYS = [*CHATS, *COMPLETIONS]
EITHER = ["chat", "astream_chat"]
"""Where the way matters little."""

HI = [ChatMessage("hi")]
OUTPUT_ARGUMENTS = "openai:{}@http://127.0.0.1:9/v1"
"""Nobody listens there."""
SMALL, LARGE = OUTPUT_ARGUMENTS.format("S"), OUTPUT_ARGUMENTS.format("L")

WEATHER = FunctionTool.from_defaults(get_weather)
CLOCK = FunctionTool.from_defaults(clock)
TOOLS = [WEATHER, CLOCK]
# Of LlamaIndex's agents: they ask for what pydantic and their own workflows have renamed.
AGENTS = (
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step:DeprecationWarning",
)


def scripted(
    *behind: str, tags: bool = True, supports_schema: bool = True, of: Any = None, **options: Any
) -> GlimpRouterLLM:
    """An LLM over two models of one script; ``of`` goes to the backends."""
    models = pair(*behind, tags=tags, supports_schema=supports_schema, **(of or {}))
    return GlimpRouterLLM(**models, **ROUTED, **options)


def endless(**options: Any) -> GlimpRouterLLM:
    """An LLM that speaks until it is stopped."""
    models = {
        name: ScriptedBackend(lambda _: (b"word ", 0.1), delay=0.002, name=name)
        for name in ("small", "large")
    }
    return GlimpRouterLLM(**models, untagged_answer="whole", max_tokens=100_000, **options)


async def begin(way: str, llm: Any, given: Any = None, **kwargs: Any) -> Any:
    """A call by the method's name: the reply, or a stream nobody has read from."""
    given = given if given is not None else HI if "chat" in way else "hi"
    result = getattr(llm, way)(given, **kwargs)
    return await result if way.startswith("a") else result


async def replies(way: str, llm: Any, given: Any = None, **kwargs: Any) -> list[Any]:
    """Every response of one call; of a whole reply there is one."""
    result = await begin(way, llm, given, **kwargs)
    if "stream" not in way:
        return [result]
    return list(result) if way.startswith("stream") else [response async for response in result]


async def ask(way: str, llm: Any, given: Any = None, **kwargs: Any) -> Any:
    """The last response."""
    return (await replies(way, llm, given, **kwargs))[-1]


def thoughts(message: ChatMessage) -> list[str | None]:
    return [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]


def calls(message: ChatMessage) -> list[tuple[str, Any]]:
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    return [(block.tool_name, block.tool_kwargs) for block in blocks]


def authors(response: Any) -> list[str]:
    return [step["author"] for step in response.raw["glimprouter"]["steps"]]


class Heard(BaseEventHandler):
    """Keeps the events of LlamaIndex's instrumentation."""

    events: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@contextmanager
def listening(handler: Any = None) -> Iterator[Any]:
    """A handler of all events, for as long as the block runs."""
    handler = handler or Heard()
    root = get_dispatcher()
    root.add_event_handler(handler)
    try:
        yield handler
    finally:
        root.event_handlers.remove(handler)
