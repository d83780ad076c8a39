"""LlamaIndex on top of the LLM: templates, queries, chat engines, agents."""

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import MessageRole
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation.events.llm import LLMChatStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool

from llamaindex_glimp.testing.base import Suite, call, recorded, run_async

__all__ = ["FrameworkTests"]

PROMPT = PromptTemplate("Say {word}.")
FACT = "The code of the blue door is 4711."


class FrameworkTests(Suite):
    """The LLM is used as LlamaIndex itself uses it."""

    @pytest.fixture
    def settings(self, llm: FunctionCallingLLM) -> Iterator[None]:
        """``Settings`` with this LLM; as they were, afterwards."""
        names = ("_llm", "_embed_model")
        before = {name: getattr(Settings, name) for name in names}
        Settings.llm, Settings.embed_model = llm, MockEmbedding(embed_dim=4)
        yield
        for name, value in before.items():
            setattr(Settings, name, value)

    @pytest.mark.parametrize("method", ["predict", "apredict"])
    def test_predict_text(self, llm: FunctionCallingLLM, method: str) -> None:
        """Response synthesizers call ``predict`` with their templates."""
        (text,) = call(llm, method, PROMPT, word="yes")
        assert isinstance(text, str)
        assert text.strip()

    @pytest.mark.parametrize("method", ["stream", "astream"])
    def test_stream_text(self, llm: FunctionCallingLLM, method: str) -> None:
        """Those with ``streaming=True`` call ``stream``, of which each item is text."""
        pieces = call(llm, method, PROMPT, word="yes")
        assert {type(piece) for piece in pieces} == {str}
        assert "".join(pieces).strip()

    def test_system_prompt(self, llm: FunctionCallingLLM) -> None:
        """``LLM._extend_messages`` puts ``system_prompt`` in front."""
        llm.system_prompt = "Be brief."
        with recorded() as events:
            assert llm.predict(PROMPT, word="yes").strip()
        (start,) = [event for event in events if isinstance(event, LLMChatStartEvent)]
        assert [message.role for message in start.messages] == [MessageRole.SYSTEM, "user"]
        assert [message.content for message in start.messages] == ["Be brief.", "Say yes."]

    @pytest.mark.usefixtures("settings")
    @pytest.mark.parametrize("method", ["query", "aquery"])
    def test_query(self, llm: FunctionCallingLLM, method: str) -> None:
        """``Settings.llm`` answers from what a query engine retrieved."""
        assert Settings.llm is llm
        index = SummaryIndex.from_documents([Document(text=FACT)])
        engine: Any = index.as_query_engine(response_mode="compact")
        with recorded() as events:
            (response,) = call(engine, method, "What is the code?")
        assert str(response).strip()
        (start,) = [event for event in events if isinstance(event, LLMChatStartEvent)]
        assert FACT in "\n".join(message.content or "" for message in start.messages)

    @pytest.mark.usefixtures("settings")
    def test_streaming_query(self, llm: FunctionCallingLLM) -> None:
        """The same, with ``streaming=True``."""
        index = SummaryIndex.from_documents([Document(text=FACT)])
        engine: Any = index.as_query_engine(response_mode="compact", streaming=True)
        assert "".join(engine.query("What is the code?").response_gen).strip()

    def test_chat_engine(self, llm: FunctionCallingLLM) -> None:
        """``SimpleChatEngine`` writes its memory from a thread, while the stream is read."""
        engine = SimpleChatEngine.from_defaults(llm=llm, memory=ChatMemoryBuffer.from_defaults())
        assert str(engine.chat("Say yes.")).strip()
        text = "".join(engine.stream_chat("Say no.").response_gen)
        assert text.strip()
        roles = [message.role for message in engine.chat_history]
        assert roles == ["user", "assistant", "user", "assistant"]
        assert engine.chat_history[-1].content == text

    # LlamaIndex's workflows look at all attributes of an agent, and ask whether it runs.
    @pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
    @pytest.mark.filterwarnings("ignore:is_running called from within:DeprecationWarning")
    @pytest.mark.parametrize("streaming", [True, False])
    def test_agent(self, llm: FunctionCallingLLM, streaming: bool) -> None:
        """``FunctionAgent`` lets it call a tool, and answer."""
        codes: list[str] = []

        def open_door(colour: str) -> str:
            """Open a door."""
            codes.append(colour)
            return "The door is open."

        agent = FunctionAgent(
            tools=[FunctionTool.from_defaults(open_door)],
            llm=llm,
            streaming=streaming,
            initial_tool_choice="open_door" if self.has_tool_choice else None,
        )

        async def run() -> tuple[str, list[ToolCallResult]]:
            handler = agent.run(
                "Open the blue door.", max_iterations=3, early_stopping_method="generate"
            )
            events = [event async for event in handler.stream_events()]
            return str(await handler), [e for e in events if isinstance(e, ToolCallResult)]

        text, results = run_async(run)
        assert text.strip()
        assert len(results) >= len(codes)
        if self.has_tool_choice:
            assert codes
