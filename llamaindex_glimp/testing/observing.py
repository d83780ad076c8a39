"""What observers see of a call: events, callbacks, tokens, rate limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.rate_limiter import BaseRateLimiter

from llamaindex_glimp.testing.base import CHAT, COMPLETE, Suite, ask, call, once_a_class, recorded

__all__ = ["Observed", "ObservingTests", "WatchedSuite"]

COUNT = "Count from one to three."
GUESS = 100_003
"""The number of tokens of any text, if ``TokenCountingHandler`` has to count them itself."""


class Callbacks(BaseCallbackHandler):
    """Records the LLM calls that callbacks report."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.started: list[str] = []
        self.ended: list[str] = []
        self.payloads: list[dict[str, Any]] = []

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        if event_type == CBEventType.LLM:
            self.started.append(event_id)
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        if event_type == CBEventType.LLM:
            self.ended.append(event_id)
            self.payloads.append(payload or {})

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(
        self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None
    ) -> None: ...


class Limiter(BaseRateLimiter):
    """Lets every call through, and records how it asked."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def acquire(self, num_tokens: int = 0) -> None:
        self.kinds.append("sync")

    async def async_acquire(self, num_tokens: int = 0) -> None:
        self.kinds.append("async")


@dataclass(frozen=True)
class Observed:
    """A call, and what observers saw of it."""

    question: str | list[ChatMessage]
    responses: list[Any]
    events: list[BaseEvent]
    callbacks: Callbacks
    tokens: TokenCountingHandler
    limiter: Limiter
    payload: dict[str, Any]

    @property
    def last(self) -> Any:
        """The reply; of a stream, its last response."""
        return self.responses[-1]

    def of(self, kind: type[BaseEvent]) -> list[Any]:
        """The events of a class."""
        return [event for event in self.events if isinstance(event, kind)]


class WatchedSuite(Suite):
    """One observed call by each method, at which many tests look."""

    @pytest.fixture
    def observed(self, request: pytest.FixtureRequest) -> Callable[[str], Observed]:
        """From a method's name to its call, which is made at its first use."""
        return once_a_class(request, self._observe)

    def _observe(self, method: str) -> Observed:
        llm = self.make_llm()
        question = ask(COUNT) if method in CHAT else COUNT
        callbacks, limiter = Callbacks(), Limiter()
        tokens = TokenCountingHandler(tokenizer=lambda text: [0] * GUESS)
        llm.callback_manager = CallbackManager([callbacks, tokens])
        llm.rate_limiter = limiter
        with recorded() as events:
            responses = call(llm, method, question)
        return Observed(question, responses, events, callbacks, tokens, limiter, llm.to_payload())


class ObservingTests(WatchedSuite):
    """Each call is reported once, whichever method makes it."""

    @pytest.mark.parametrize("method", CHAT)
    def test_chat_events(self, observed: Callable[[str], Observed], method: str) -> None:
        """``llm_chat_callback`` sends them; tracers build a span of each start and its end."""
        seen = observed(method)
        (start,), (end,) = seen.of(LLMChatStartEvent), seen.of(LLMChatEndEvent)
        assert list(start.messages) == seen.question
        assert end.response.message == seen.last.message
        _check_events(seen, method, start, seen.of(LLMChatInProgressEvent), end)

    @pytest.mark.parametrize("method", COMPLETE)
    def test_completion_events(self, observed: Callable[[str], Observed], method: str) -> None:
        """``llm_completion_callback`` sends them."""
        seen = observed(method)
        (start,), (end,) = seen.of(LLMCompletionStartEvent), seen.of(LLMCompletionEndEvent)
        assert start.prompt == seen.question
        assert end.response.text == seen.last.text
        _check_events(seen, method, start, seen.of(LLMCompletionInProgressEvent), end)

    @pytest.mark.parametrize("method", [*CHAT, *COMPLETE])
    def test_callbacks(self, observed: Callable[[str], Observed], method: str) -> None:
        """``CallbackManager``'s handlers count and trace calls, so each call is reported once."""
        seen = observed(method)
        assert len(seen.callbacks.started) == 1
        assert seen.callbacks.ended == seen.callbacks.started
        (payload,) = seen.callbacks.payloads
        key = EventPayload.RESPONSE if method in CHAT else EventPayload.COMPLETION
        assert str(payload[key]) == str(seen.last)

    @pytest.mark.parametrize("method", [*CHAT, *COMPLETE])
    def test_tokens(self, observed: Callable[[str], Observed], method: str) -> None:
        """``TokenCountingHandler`` takes ``raw["usage"]``, and guesses where there is none."""
        if not self.has_usage:
            pytest.skip("has_usage is off")
        seen = observed(method)
        usage = dict(seen.last.raw)["usage"]
        usage = usage if isinstance(usage, dict) else usage.model_dump()
        (count,) = seen.tokens.llm_token_counts
        for number in (count.prompt_token_count, count.completion_token_count):
            assert 0 < number < GUESS
            assert number in usage.values()
        if "total_tokens" in usage:
            assert seen.tokens.total_llm_token_count == usage["total_tokens"]

    @pytest.mark.parametrize("method", [*CHAT, *COMPLETE])
    def test_rate_limit(self, observed: Callable[[str], Observed], method: str) -> None:
        """``llm_chat_callback`` asks ``rate_limiter`` for leave before each call."""
        assert observed(method).limiter.kinds == ["async" if method.startswith("a") else "sync"]


def _check_events(seen: Observed, method: str, start: Any, parts: list[Any], end: Any) -> None:
    """There are as many events as responses, in order, in one span."""
    assert start.model_dict == seen.payload
    assert len(parts) == (len(seen.responses) if "stream" in method else 0)
    events = [start, *parts, end]
    assert [event for event in seen.events if any(event is one for one in events)] == events
    assert start.span_id
    assert {event.span_id for event in events} == {start.span_id}
