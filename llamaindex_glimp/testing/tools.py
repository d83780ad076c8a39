"""Tool calls: that they come, what they hold, and how their results are read."""

from enum import Enum
from typing import Any, Literal

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_glimp.testing.base import Suite, ask, call

__all__ = ["ADD", "ToolTests"]

WITH_TOOLS = (
    "chat_with_tools",
    "stream_chat_with_tools",
    "achat_with_tools",
    "astream_chat_with_tools",
)
STREAMS = ("stream_chat_with_tools", "astream_chat_with_tools")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """Tell the time."""
    return "12:30"


def weather(city: Literal["Zürich", "東京"]) -> str:
    """Tell the weather."""
    return f"{city}: sunny"


class View(Enum):
    """What is seen from a window."""

    SEA = "sea"
    YARD = "yard"


class Room(BaseModel):
    """A room of a hotel."""

    beds: int
    view: View


class Booking(BaseModel):
    """A stay in a hotel."""

    city: str
    room: Room


def book(booking: Booking) -> str:
    """Book a room."""
    return "booked"


ADD, NOW, WEATHER, BOOK = (FunctionTool.from_defaults(fn) for fn in (add, now, weather, book))
TWICE = "Call the tool twice at once: what is 1 + 2, and what is 3 + 4?"
SUM = "What is 2 + 3? Use the tool."


class ToolTests(Suite):
    """``chat_with_tools`` in all variants, reading a response's calls, ``predict_and_call``."""

    @pytest.mark.parametrize("method", WITH_TOOLS)
    def test_required_call(self, llm: FunctionCallingLLM, method: str) -> None:
        """``FunctionCallingProgram`` says ``tool_required`` and needs the call."""
        response = call(llm, method, [ADD], user_msg=SUM, tool_required=True)[-1]
        assert isinstance(response, ChatResponse)
        assert response.message.role == MessageRole.ASSISTANT
        _check_call(llm, response, ADD)

    def test_question_as_a_message(self, llm: FunctionCallingLLM) -> None:
        """``user_msg`` may be a ``ChatMessage``, after a history."""
        response = llm.chat_with_tools(
            [ADD],
            user_msg=ask(SUM)[0],
            chat_history=[ChatMessage(role=MessageRole.SYSTEM, content="Be brief.")],
            tool_required=True,
        )
        _check_call(llm, response, ADD)

    @pytest.mark.parametrize("method", STREAMS)
    def test_calls_of_every_response(self, llm: FunctionCallingLLM, method: str) -> None:
        """``FunctionAgent`` asks for the calls of each response of a stream."""
        responses = call(llm, method, [ADD], user_msg=SUM, tool_required=True)
        assert len(responses) >= 2, "that is not a stream"
        for response in responses:
            selections = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
            assert isinstance(selections, list)
            assert {type(selection) for selection in selections} <= {ToolSelection}
            assert {selection.tool_name for selection in selections} <= {"add"}
        assert "".join(r.delta or "" for r in responses) == (responses[-1].message.content or "")

    @pytest.mark.parametrize("method", STREAMS)
    def test_objects_of_a_stream(self, llm: FunctionCallingLLM, method: str) -> None:
        """``FunctionCallingProgram.stream_call`` makes an object of each response.

        ``process_streaming_objects``, which does it, knows a call by the message's
        ``additional_kwargs["tool_calls"]``: without them it takes the text for the object.
        """
        tool = get_function_tool(Room)
        question = "A room with 2 beds and view of the sea. Use the tool."
        responses = call(llm, method, [tool], user_msg=question, tool_required=True)
        rooms = [process_streaming_objects(response, Room, llm=llm) for response in responses]
        assert type(rooms[-1]) is Room

    def test_no_call(self, llm: FunctionCallingLLM) -> None:
        """``predict_and_call`` relies on the error, ``FunctionAgent`` on the empty list."""
        response = ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content="There is no call.")
        )
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(ValueError, match=r"(?i)tool"):
            llm.get_tool_calls_from_response(response)

    @pytest.mark.parametrize("written", [{"a": 2, "b": 3}, '{"a": 2, "b": 3}', '{"a": 2, "b": 3'])
    def test_calls_of_blocks(self, llm: FunctionCallingLLM, written: Any) -> None:
        """``ToolCallBlock.tool_kwargs`` is a dictionary or text, which may be unfinished."""
        block = ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs=written)
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=""), block])
        (selection,) = llm.get_tool_calls_from_response(ChatResponse(message=message))
        assert (selection.tool_id, selection.tool_name) == ("call_1", "add")
        assert selection.tool_kwargs == {"a": 2, "b": 3}

    def test_no_arguments(self, llm: FunctionCallingLLM) -> None:
        """``call_tool`` calls the function with what is there: nothing."""
        response = llm.chat_with_tools([NOW], user_msg="What time is it?", tool_required=True)
        assert _check_call(llm, response, NOW).tool_kwargs == {}

    def test_nested_argument(self, llm: FunctionCallingLLM) -> None:
        """``ToolMetadata.get_parameters_dict`` puts nested classes into ``$defs``."""
        response = llm.chat_with_tools(
            [BOOK], user_msg="Book a room in Rome: 2 beds, view: sea.", tool_required=True
        )
        _check_call(llm, response, BOOK)

    def test_unicode_argument(self, llm: FunctionCallingLLM) -> None:
        """Schemas and arguments are JSON, in which escapes and characters are the same."""
        response = llm.chat_with_tools([WEATHER], user_msg="Sunny in 東京?", tool_required=True)
        assert _check_call(llm, response, WEATHER).tool_kwargs["city"] in ("Zürich", "東京")

    @pytest.mark.parametrize(
        ("method", "tool"),
        [("chat_with_tools", WEATHER), ("astream_chat_with_tools", NOW)],
        ids=["weather", "now"],
    )
    def test_tool_choice(self, llm: FunctionCallingLLM, method: str, tool: FunctionTool) -> None:
        """``FunctionAgent.initial_tool_choice`` is a tool's name, passed as ``tool_choice``."""
        if not self.has_tool_choice:
            pytest.skip("has_tool_choice is off")
        name = tool.metadata.name
        response = call(llm, method, [NOW, WEATHER], user_msg="Hello!", tool_choice=name)[-1]
        _check_call(llm, response, tool)

    @pytest.mark.parametrize("method", ["achat_with_tools", "stream_chat_with_tools"])
    def test_at_most_one(self, llm: FunctionCallingLLM, method: str) -> None:
        """``predict_and_call`` raises where ``allow_parallel_tool_calls=False`` is not kept."""
        response = call(
            llm, method, [ADD], user_msg=TWICE, tool_required=True, allow_parallel_tool_calls=False
        )[-1]
        assert len(llm.get_tool_calls_from_response(response)) == 1

    def test_parallel_calls(self, llm: FunctionCallingLLM) -> None:
        """``FunctionAgent`` matches results to calls by their ids."""
        if not self.has_parallel_tool_calls:
            pytest.skip("has_parallel_tool_calls is off")
        response = llm.chat_with_tools(
            [ADD], user_msg=TWICE, tool_required=True, allow_parallel_tool_calls=True
        )
        selections = llm.get_tool_calls_from_response(response)
        assert len(selections) >= 2
        assert len({selection.tool_id for selection in selections}) == len(selections)

    @pytest.mark.parametrize("method", ["chat_with_tools", "astream_chat_with_tools"])
    def test_no_tools(self, llm: FunctionCallingLLM, method: str) -> None:
        """``FunctionAgent`` without tools passes an empty list: then it is a chat."""
        response = call(llm, method, [], chat_history=ask("Say yes."))[-1]
        assert (response.message.content or "").strip()
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []

    @pytest.mark.parametrize("method", ["chat_with_tools", "astream_chat_with_tools"])
    def test_history_is_left_alone(self, llm: FunctionCallingLLM, method: str) -> None:
        """``chat_history`` is the caller's list: ``predict_and_call`` hands it on as it got it."""
        history = [ChatMessage(role=MessageRole.SYSTEM, content="Be brief.")]
        tools = [ADD]
        call(llm, method, tools, user_msg=SUM, chat_history=history, tool_required=True)
        assert history == [ChatMessage(role=MessageRole.SYSTEM, content="Be brief.")]
        assert tools == [ADD]

    def test_result_is_answered(self, llm: FunctionCallingLLM) -> None:
        """``FunctionAgent`` sends back the reply itself, and the result as ``role="tool"``."""
        reply = llm.chat_with_tools([ADD], user_msg=SUM, tool_required=True)
        selection = _check_call(llm, reply, ADD)
        history = [
            *ask(SUM),
            reply.message,
            ChatMessage(
                role="tool", content="5", additional_kwargs={"tool_call_id": selection.tool_id}
            ),
        ]
        assert (llm.chat(history).message.content or "").strip()
        # With the tools still at hand, what comes next is the model's to choose.
        after = llm.chat_with_tools([ADD], chat_history=history)
        again = llm.get_tool_calls_from_response(after, error_on_no_tool_call=False)
        assert again or (after.message.content or "").strip()

    def test_predict_and_call(self, llm: FunctionCallingLLM) -> None:
        """``FunctionCallingProgram`` takes the object from ``sources[0].raw_output``."""
        response = llm.predict_and_call([ADD], user_msg=SUM, tool_required=True)
        (source,) = response.sources
        assert (source.tool_name, source.is_error) == ("add", False)
        assert response.response == str(source.raw_output)

    def test_apredict_and_call(self, llm: FunctionCallingLLM) -> None:
        """The same, for ``acall``."""
        (response,) = call(llm, "apredict_and_call", [ADD], user_msg=SUM, tool_required=True)
        (source,) = response.sources
        assert (source.tool_name, source.is_error) == ("add", False)
        assert response.response == str(source.raw_output)


def _check_call(
    llm: FunctionCallingLLM, response: ChatResponse, tool: FunctionTool
) -> ToolSelection:
    """One call, of this tool, with an id and arguments that its schema allows."""
    (selection,) = llm.get_tool_calls_from_response(response)
    assert isinstance(selection, ToolSelection)
    assert selection.tool_name == tool.metadata.name
    assert selection.tool_id
    assert tool.metadata.fn_schema is not None
    tool.metadata.fn_schema.model_validate(selection.tool_kwargs)
    return selection
