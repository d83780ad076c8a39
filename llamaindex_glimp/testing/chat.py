"""Chat and completion: replies, streams, histories, many callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM

from llamaindex_glimp.testing.base import (
    Suite,
    ask,
    call,
    run_async,
    thinking_of,
    within,
)
from llamaindex_glimp.testing.observing import Observed, WatchedSuite

__all__ = ["ChatTests", "CompletionTests", "CrowdTests"]

USER, ASSISTANT = MessageRole.USER, MessageRole.ASSISTANT
COUNT = "Count from one to three."
YES = "Say yes."


def _after_a_tool() -> list[ChatMessage]:
    """A conversation as ``FunctionAgent`` keeps it in its scratchpad and later in memory."""
    return [
        ChatMessage(role=USER, content="Which code opens the door?"),
        ChatMessage(
            role=ASSISTANT,
            blocks=[
                ThinkingBlock(content="I look it up."),
                TextBlock(text=""),
                ToolCallBlock(tool_call_id="call_1", tool_name="look_up", tool_kwargs={"at": "a"}),
            ],
        ),
        ChatMessage(
            role=MessageRole.TOOL, content="4711", additional_kwargs={"tool_call_id": "call_1"}
        ),
    ]


HISTORIES = {
    "system": [ChatMessage(role=MessageRole.SYSTEM, content="Be brief."), *ask(YES)],
    "turns": [*ask("Say no."), ChatMessage(role=ASSISTANT, content="No."), *ask(YES)],
    "two users in a row": [*ask("Be brief."), *ask(YES)],
    "thinking": [
        *ask("Say no."),
        ChatMessage(
            role=ASSISTANT, blocks=[ThinkingBlock(content="They want no."), TextBlock(text="No.")]
        ),
        *ask(YES),
    ],
    "an empty reply": [*ask(YES), ChatMessage(role=ASSISTANT, content=""), *ask(YES)],
    "a reply without blocks": [*ask(YES), ChatMessage(role=ASSISTANT, blocks=[]), *ask(YES)],
    "several blocks": [
        ChatMessage(role=USER, blocks=[TextBlock(text="Be brief."), TextBlock(text=YES)])
    ],
    "tool": _after_a_tool(),
    "after a tool": [*_after_a_tool(), ChatMessage(role=ASSISTANT, content="4711."), *ask(YES)],
    "arguments as text": [
        *ask("Look it up."),
        ChatMessage(
            role=ASSISTANT,
            blocks=[
                ToolCallBlock(tool_call_id="call_1", tool_name="look_up", tool_kwargs='{"at": "a"}')
            ],
        ),
        _after_a_tool()[-1],
    ],
    "unicode": [
        *ask("Grüße, 日本語, مرحبا, 👩‍👩‍👧, e\u0301, \u2028"),
        ChatMessage(role=ASSISTANT, content="Schön! 🎉"),
        *ask(YES),
    ],
}


class ChatTests(WatchedSuite):
    """``chat``, ``achat``, ``stream_chat``, ``astream_chat``."""

    @pytest.mark.parametrize("method", ["chat", "achat"])
    def test_chat(self, observed: Callable[[str], Observed], method: str) -> None:
        """``LLM.predict`` takes ``message.content`` as the answer; chat engines store it."""
        (response,) = observed(method).responses
        assert isinstance(response, ChatResponse)
        _check_reply(response)
        assert str(response) == str(response.message)

    @pytest.mark.parametrize("method", ["stream_chat", "astream_chat"])
    def test_stream(self, observed: Callable[[str], Observed], method: str) -> None:
        """``StreamingAgentChatResponse`` shows the deltas and stores the last message."""
        responses = observed(method).responses
        assert len(responses) >= 2, "that is not a stream"
        assert {type(response) for response in responses} == {ChatResponse}
        assert {response.message.role for response in responses} == {ASSISTANT}
        _check_growing(
            [r.message.content or "" for r in responses], [r.delta or "" for r in responses]
        )
        _check_reply(responses[-1])

    def test_given_out_is_left_alone(self, llm: FunctionCallingLLM) -> None:
        """Event handlers keep the responses of ``LLMChatInProgressEvent``: none may change."""
        given, copies = [], []
        for response in llm.stream_chat(ask(COUNT)):
            given.append(response.message)
            copies.append(response.message.model_copy(deep=True))
        assert given == copies

    @pytest.mark.parametrize("method", ["chat", "achat"])
    def test_thinking(self, llm: FunctionCallingLLM, method: str) -> None:
        """Memory keeps a message's blocks in their order; ``content`` is what users read."""
        self._needs_thinking()
        (response,) = call(llm, method, ask(self.thinking_question))
        _check_thinking(response)

    @pytest.mark.parametrize("method", ["stream_chat", "astream_chat"])
    def test_stream_thinking(self, llm: FunctionCallingLLM, method: str) -> None:
        """``FunctionAgent`` passes on ``additional_kwargs["thinking_delta"]`` of each response."""
        self._needs_thinking()
        responses = call(llm, method, ask(self.thinking_question))
        _check_thinking(responses[-1])
        deltas = [r.additional_kwargs.get("thinking_delta") or "" for r in responses]
        _check_growing([thinking_of(response) for response in responses], deltas)
        _check_growing(
            [r.message.content or "" for r in responses], [r.delta or "" for r in responses]
        )

    @pytest.mark.parametrize("history", HISTORIES)
    def test_history(self, llm: FunctionCallingLLM, history: str) -> None:
        """Chat engines, memory and ``FunctionAgent`` send such conversations."""
        _check_reply(llm.chat([message.model_copy(deep=True) for message in HISTORIES[history]]))

    @pytest.mark.parametrize("method", ["chat", "astream_chat"])
    def test_messages_are_left_alone(self, llm: FunctionCallingLLM, method: str) -> None:
        """Chat engines pass the messages of their memory; events show them after the reply."""
        messages = [message.model_copy(deep=True) for message in HISTORIES["after a tool"]]
        before = [message.model_dump() for message in messages]
        call(llm, method, messages, **self.short)
        assert [message.model_dump() for message in messages] == before

    def test_messages_are_any_sequence(self, llm: FunctionCallingLLM) -> None:
        """``BaseLLM.chat`` takes a ``Sequence``: a tuple is one."""
        _check_reply(llm.chat(tuple(ask(YES))))

    def test_text_is_unicode(self, llm: FunctionCallingLLM) -> None:
        """Streams are cut into characters, never inside one: memory and events are JSON."""
        responses = list(llm.stream_chat(ask("Repeat: 日本語 🎉 Grüße")))
        for response in responses:
            (response.delta or "").encode()
            assert "\ufffd" not in (response.message.content or "")

    def test_arguments_of_a_call(self, llm: FunctionCallingLLM) -> None:
        """``structured_predict`` and users pass ``**kwargs`` for one call: those count."""
        shortened = llm.chat(ask("Write the numbers from 1 to 30."), **self.short)
        assert len(shortened.message.content or "") < 60
        # And only for that call.
        assert "5" in (llm.chat(ask("Write: 1 2 3 4 5 6 7 8 9")).message.content or "")

    def _needs_thinking(self) -> None:
        if not self.has_thinking:
            pytest.skip("has_thinking is off")


class CompletionTests(WatchedSuite):
    """``complete``, ``acomplete``, ``stream_complete``, ``astream_complete``."""

    @pytest.mark.parametrize("method", ["complete", "acomplete"])
    def test_complete(self, observed: Callable[[str], Observed], method: str) -> None:
        """``LLMTextCompletionProgram`` and evaluators read ``text``."""
        (response,) = observed(method).responses
        assert isinstance(response, CompletionResponse)
        assert response.text.strip()
        assert str(response) == response.text

    @pytest.mark.parametrize("method", ["stream_complete", "astream_complete"])
    def test_stream_complete(self, observed: Callable[[str], Observed], method: str) -> None:
        """``stream_completion_response_to_tokens`` joins the deltas to the text."""
        responses = observed(method).responses
        assert len(responses) >= 2, "that is not a stream"
        assert {type(response) for response in responses} == {CompletionResponse}
        _check_growing([r.text for r in responses], [r.delta or "" for r in responses])
        assert responses[-1].text.strip()

    @pytest.mark.parametrize("method", ["complete", "astream_complete"])
    def test_formatted(self, llm: FunctionCallingLLM, method: str) -> None:
        """``LLM.predict`` says ``formatted=True`` for prompts that are whole already."""
        assert call(llm, method, YES, formatted=True)[-1].text.strip()

    def test_completion_thinking(self, llm: FunctionCallingLLM) -> None:
        """``text`` is shown and parsed: the chain of thought is not part of it."""
        if not self.has_thinking:
            pytest.skip("has_thinking is off")
        thought = thinking_of(llm.chat(ask(self.thinking_question))).strip()
        assert thought
        completed = llm.complete(self.thinking_question).text
        assert completed.strip()
        _check_free_of(thought, completed)


class CrowdTests(Suite):
    """Many callers, and callers that go away."""

    def test_many_tasks(self, llm: FunctionCallingLLM) -> None:
        """``tree_summarize`` with ``use_async`` gathers calls of one LLM."""

        async def run() -> list[ChatResponse]:
            return list(await asyncio.gather(*(llm.achat(ask(f"Say {n}.")) for n in range(3))))

        for response in run_async(run, self.timeout):
            _check_reply(response)

    def test_many_threads(self, llm: FunctionCallingLLM) -> None:
        """``SubQuestionQueryEngine`` and chat engines call from threads of their own."""
        with ThreadPoolExecutor(3) as pool:
            for response in pool.map(lambda n: llm.chat(ask(f"Say {n}.")), range(3)):
                _check_reply(response)

    @pytest.mark.parametrize("method", ["achat", "astream_chat"])
    def test_many_loops(self, llm: FunctionCallingLLM, method: str) -> None:
        """``asyncio_run`` makes an event loop for each call, in a thread if one is running."""
        for _ in range(2):
            responses = within(self.timeout, lambda: call(llm, method, ask(YES)))
            _check_reply(responses[-1])

    def test_sync_inside_a_loop(self, llm: FunctionCallingLLM) -> None:
        """Notebooks, and tools of an agent, call ``chat`` while a loop is running."""

        async def run() -> list[ChatResponse]:
            return [llm.chat(ask(YES)), list(llm.stream_chat(ask(YES)))[-1]]

        for response in run_async(run, self.timeout):
            _check_reply(response)

    def test_sync_beside_async(self, llm: FunctionCallingLLM) -> None:
        """A tool that asks the LLM, inside of an agent's run: both kinds, one object."""

        async def run() -> list[ChatResponse]:
            first = asyncio.create_task(llm.achat(ask(YES)))
            second = await asyncio.to_thread(llm.chat, ask(YES))
            return [await first, second]

        for response in run_async(run, self.timeout):
            _check_reply(response)

    def test_closed_stream(self, llm: FunctionCallingLLM) -> None:
        """``StreamingAgentChatResponse`` and web servers drop streams when users leave."""

        def run() -> ChatResponse:
            for _ in range(2):
                stream = llm.stream_chat(ask(COUNT))
                next(stream)
                stream.close()
            return llm.chat(ask(YES))

        _check_reply(within(self.timeout, run))

    def test_closed_async_stream(self, llm: FunctionCallingLLM) -> None:
        """The same, for ``astream_chat``."""

        async def run() -> ChatResponse:
            for _ in range(2):
                stream = await llm.astream_chat(ask(COUNT))
                await anext(stream)
                await stream.aclose()
            return await llm.achat(ask(YES))

        _check_reply(run_async(run, self.timeout))

    def test_cancelled_task(self, llm: FunctionCallingLLM) -> None:
        """``WorkflowHandler.cancel_run`` cancels the task that waits for ``achat``."""

        async def run() -> ChatResponse:
            task = asyncio.create_task(llm.achat(ask(COUNT)))
            await asyncio.sleep(0.05)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            return await llm.achat(ask(YES))

        _check_reply(run_async(run, self.timeout))


def _check_reply(response: ChatResponse) -> None:
    assert response.message.role == ASSISTANT
    assert isinstance(response.message.content, str)
    assert response.message.content.strip()


def _check_growing(texts: list[str], deltas: list[str]) -> None:
    assert texts[0] == deltas[0]
    for (before, after), delta in zip(pairwise(texts), deltas[1:], strict=True):
        assert after == before + delta
    assert "".join(deltas) == texts[-1]


def _check_thinking(response: ChatResponse) -> None:
    _check_reply(response)
    thought = thinking_of(response).strip()
    assert thought
    assert isinstance(response.message.blocks[0], ThinkingBlock)
    _check_free_of(thought, response.message.content or "")


def _check_free_of(thought: str, text: str) -> None:
    assert "think>" not in text
    # A thought of a word or two may well be the answer, too.
    assert len(thought) < 20 or thought not in text
