"""What all tests share: how the LLM is made, what it can do, how its methods are called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ThinkingBlock
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

__all__ = [
    "CHAT",
    "COMPLETE",
    "Suite",
    "ask",
    "call",
    "once_a_class",
    "recorded",
    "run_async",
    "thinking_of",
    "within",
]

Found = TypeVar("Found")

CHAT = ("chat", "stream_chat", "achat", "astream_chat")
COMPLETE = ("complete", "stream_complete", "acomplete", "astream_complete")


class Suite:
    """How the LLM under test is made, and what it can do. Override what differs."""

    def make_llm(self) -> FunctionCallingLLM:
        """A fresh LLM. Tests set attributes of theirs, so each gets its own."""
        raise NotImplementedError(f"{type(self).__name__} lacks make_llm(): return your LLM there")

    @pytest.fixture
    def llm(self) -> FunctionCallingLLM:
        """The LLM under test."""
        return self.make_llm()

    @property
    def has_thinking(self) -> bool:
        """It tells its chain of thought, as a ``ThinkingBlock``."""
        return False

    @property
    def thinking_question(self) -> str:
        """Makes it think, and answer within its bounds."""
        return "What is 17 + 25? Think first."

    @property
    def has_usage(self) -> bool:
        """``raw["usage"]`` tells the tokens of a call, also at the end of a stream."""
        return False

    @property
    def has_tool_choice(self) -> bool:
        """``tool_choice`` with a tool's name makes it call that tool."""
        return True

    @property
    def has_parallel_tool_calls(self) -> bool:
        """It calls a tool twice in one reply when a question needs it."""
        return False

    @property
    def has_structured_output(self) -> bool:
        """It predicts objects of pydantic classes."""
        return True

    @property
    def short(self) -> Mapping[str, Any]:
        """Arguments of a call that allow only a few words of reply."""
        return {"max_tokens": 6}

    @property
    def secret(self) -> str | None:
        """Its key or password, as given by :meth:`make_llm`; no observer may see it."""
        return None

    @property
    def keeps_secret(self) -> bool:
        """Its ``repr``, its pickles and its dictionaries leave the secret out, too.

        LlamaIndex does not ask for that: where a worker process is to find the key in the pickle,
        it has to be there.
        """
        return False

    @property
    def patience(self) -> float:
        """Seconds after which a call is taken for stuck."""
        return 120.0


_KEPT: pytest.StashKey[dict[Any, Any]] = pytest.StashKey()


def once_a_class(
    request: pytest.FixtureRequest, function: Callable[[str], Found]
) -> Callable[[str], Found]:
    """The same function; what it returned is kept for all tests of a test class."""
    owner = request.node.getparent(pytest.Class)
    assert owner is not None
    kept = owner.stash.setdefault(_KEPT, {})

    def get(name: str) -> Found:
        key = (request.fixturename, name)
        if key not in kept:
            kept[key] = function(name)
        found: Found = kept[key]
        return found

    return get


def ask(text: str) -> list[ChatMessage]:
    """A conversation of one question."""
    return [ChatMessage(role=MessageRole.USER, content=text)]


def call(llm: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
    """All responses of one call: of a stream each, else the one there is.

    Methods whose names begin with "a" run in an event loop of their own.
    """
    function = getattr(llm, method)
    if method.startswith("a"):
        return run_async(lambda: _acall(function, args, kwargs))
    found = function(*args, **kwargs)
    return list(found) if isinstance(found, Iterator) else [found]


async def _acall(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    found = await function(*args, **kwargs)
    return [item async for item in found] if isinstance(found, AsyncIterator) else [found]


def run_async(function: Callable[[], Coroutine[Any, Any, Found]], patience: float = 600) -> Found:
    """What a coroutine function returns, in an event loop of its own.

    In a thread of its own, too: ``asyncio.run`` takes away the calling thread's loop, on which
    ``llama_index.core.async_utils.asyncio_run`` relies.
    """
    return within(patience, lambda: asyncio.run(function()))


def within(seconds: float, function: Callable[[], Found]) -> Found:
    """What a function returns, in a thread of its own, so that a test ends where it does not."""
    found: list[Found] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"no answer within {seconds:g} seconds"
    if failed:
        raise failed[0]
    return found[0]


def thinking_of(response: ChatResponse) -> str:
    """The chain of thought of a reply."""
    blocks = response.message.blocks
    return "".join(b.content or "" for b in blocks if isinstance(b, ThinkingBlock))


class _Recorder(BaseEventHandler):
    _heard: list[BaseEvent] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "ConformanceRecorder"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self._heard.append(event)


@contextmanager
def recorded() -> Iterator[list[BaseEvent]]:
    """Every event that LlamaIndex's instrumentation sends meanwhile."""
    root, recorder = get_dispatcher(), _Recorder()
    root.add_event_handler(recorder)
    try:
        yield recorder._heard
    finally:
        root.event_handlers = [known for known in root.event_handlers if known is not recorder]
