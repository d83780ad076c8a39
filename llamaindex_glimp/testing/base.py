"""What all tests share: how the LLM is made, what it can do, and how its methods are called."""

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

Result = TypeVar("Result")

CHAT = ("chat", "stream_chat", "achat", "astream_chat")
COMPLETE = ("complete", "stream_complete", "acomplete", "astream_complete")


class Suite:
    """How the LLM under test is made, and what it can do.

    Override :meth:`make_llm`, and the properties whose default is wrong for your LLM.
    """

    def make_llm(self) -> FunctionCallingLLM:
        """A new LLM. Tests change its attributes, so each test gets its own."""
        raise NotImplementedError(f"{type(self).__name__} lacks make_llm(): return your LLM there")

    @pytest.fixture
    def llm(self) -> FunctionCallingLLM:
        """The LLM under test."""
        return self.make_llm()

    @property
    def has_thinking(self) -> bool:
        """Whether its replies hold the chain of thought, as a ``ThinkingBlock``."""
        return False

    @property
    def thinking_question(self) -> str:
        """A question at which it thinks, and that it answers within its token limits."""
        return "What is 17 + 25? Think first."

    @property
    def has_usage(self) -> bool:
        """Whether ``raw["usage"]`` holds the tokens of a call, also at the end of a stream."""
        return False

    @property
    def has_tool_choice(self) -> bool:
        """Whether ``tool_choice`` with a tool's name makes it call that tool."""
        return True

    @property
    def has_parallel_tool_calls(self) -> bool:
        """Whether it calls a tool twice in one reply when a question needs it."""
        return False

    @property
    def has_structured_output(self) -> bool:
        """Whether it predicts objects of pydantic classes."""
        return True

    @property
    def short(self) -> Mapping[str, Any]:
        """Arguments of a call that limit the reply to a few words."""
        return {"max_tokens": 6}

    @property
    def secret(self) -> str | None:
        """The key or password that :meth:`make_llm` passes to it; no observer may see it."""
        return None

    @property
    def keeps_secret(self) -> bool:
        """Whether its ``repr``, its pickles and its dictionaries leave the secret out as well.

        LlamaIndex does not demand that: an LLM whose worker processes take the key from the pickle
        needs it there.
        """
        return False

    @property
    def timeout(self) -> float:
        """The number of seconds after which a call counts as stuck."""
        return 120.0


_RESULTS: pytest.StashKey[dict[Any, Any]] = pytest.StashKey()


def once_a_class(
    request: pytest.FixtureRequest, function: Callable[[str], Result]
) -> Callable[[str], Result]:
    """The same function, called once for each argument in a test class.

    All tests of the class share what it returned. The fixture that uses it may be requested often.
    """
    owner = request.node.getparent(pytest.Class)
    assert owner is not None
    results = owner.stash.setdefault(_RESULTS, {})

    def get(name: str) -> Result:
        key = (request.fixturename, name)
        if key not in results:
            results[key] = function(name)
        result: Result = results[key]
        return result

    return get


def ask(text: str) -> list[ChatMessage]:
    """A conversation of one question."""
    return [ChatMessage(role=MessageRole.USER, content=text)]


def call(llm: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
    """The responses of one call: each response of a stream, or the single one.

    A method whose name begins with "a" runs in a new event loop.
    """
    function = getattr(llm, method)
    if method.startswith("a"):
        return run_async(lambda: _acall(function, args, kwargs))
    result = function(*args, **kwargs)
    return list(result) if isinstance(result, Iterator) else [result]


async def _acall(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    result = await function(*args, **kwargs)
    return [item async for item in result] if isinstance(result, AsyncIterator) else [result]


def run_async(function: Callable[[], Coroutine[Any, Any, Result]], seconds: float = 600) -> Result:
    """Run a coroutine function in a new event loop, and return its result.

    The loop runs in a new thread, because ``asyncio.run`` would remove the calling thread's loop,
    on which ``llama_index.core.async_utils.asyncio_run`` relies.
    """
    return within(seconds, lambda: asyncio.run(function()))


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Run a function in a new thread, and return its result.

    The test ends after so many seconds even if the function does not.
    """
    results: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"no answer within {seconds:g} seconds"
    if failed:
        raise failed[0]
    return results[0]


def thinking_of(response: ChatResponse) -> str:
    """The chain of thought of a reply."""
    blocks = response.message.blocks
    return "".join(b.content or "" for b in blocks if isinstance(b, ThinkingBlock))


class _Recorder(BaseEventHandler):
    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "ConformanceRecorder"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self._events.append(event)


@contextmanager
def recorded() -> Iterator[list[BaseEvent]]:
    """Every event that LlamaIndex's instrumentation sends meanwhile."""
    root, recorder = get_dispatcher(), _Recorder()
    root.add_event_handler(recorder)
    try:
        yield recorder._events
    finally:
        root.event_handlers = [h for h in root.event_handlers if h is not recorder]
