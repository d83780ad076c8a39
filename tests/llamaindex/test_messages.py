"""What reaches the models of LlamaIndex's messages: roles, blocks, tool calls and their results."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.schema import ImageDocument
from openai.types.chat import ChatCompletionMessageToolCall
from scripted_llms import CHATS, EITHER, HI, TOOLS, ask, scripted, thoughts
from scripts import CALL, PARIS, REASONING, of_own_accord

from glimp_integrations import ConfigError

PNG = b"\x89PNG\r\n\x1a\n0000"
PARIS_CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}


def seen(*messages: ChatMessage) -> list[dict[str, Any]]:
    """The conversation as both models read it."""
    llm = scripted("Hello.")
    llm.chat([*messages])
    assert llm.small.conversations == llm.large.conversations
    (conversation,) = llm.large.conversations
    return conversation


@pytest.mark.parametrize(
    ("given", "role"),
    [
        (MessageRole.SYSTEM, "system"),
        (MessageRole.DEVELOPER, "developer"),
        (MessageRole.USER, "user"),
        (MessageRole.ASSISTANT, "assistant"),
        (MessageRole.CHATBOT, "assistant"),
        (MessageRole.MODEL, "assistant"),
        (MessageRole.TOOL, "tool"),
        (MessageRole.FUNCTION, "tool"),
    ],
)
def test_every_role_has_a_place(given: MessageRole, role: str) -> None:
    result = seen(*HI, ChatMessage("text", role=given))
    assert result == [{"role": "user", "content": "hi"}, {"role": role, "content": "text"}]


@pytest.mark.parametrize("role", ["tool", "function"])
def test_results_name_their_call(role: str) -> None:
    kwargs = {"tool_call_id": "1", "name": "clock", "is_error": False}
    result = seen(*HI, ChatMessage("noon", role=role, additional_kwargs=kwargs))[-1]
    assert result == {"role": "tool", "content": "noon", "tool_call_id": "1", "name": "clock"}


def test_only_results_name_a_call() -> None:
    # Agents leave the id on an assistant's message, too, if a tool answers directly.
    kwargs = {"tool_call_id": "1", "name": "Anna", "refusal": None}
    result = seen(*HI, ChatMessage("noon", role="assistant", additional_kwargs=kwargs))[-1]
    assert result == {"role": "assistant", "content": "noon", "name": "Anna"}


def test_texts_are_joined_as_llamaindex_joins_them() -> None:
    message = ChatMessage(blocks=[TextBlock(text="one"), TextBlock(text="two")])
    assert seen(message)[0]["content"] == message.content == "one\ntwo"


def test_what_is_no_part_of_the_conversation_is_left_out() -> None:
    message = ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="secret thoughts"),
            TextBlock(text="ok"),
            CachePoint(cache_control=CacheControl(type="ephemeral")),
        ],
    )
    assert seen(*HI, message)[-1] == {"role": "assistant", "content": "ok"}


def test_an_earlier_reply_does_not_bring_its_thoughts_back() -> None:
    message = scripted("Hello.").chat(HI).message
    assert thoughts(message) == [REASONING]
    result = seen(*HI, message, ChatMessage("and now?"))
    assert result[1] == {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    "block",
    [
        CitableBlock(title="t", source="s", content=[TextBlock(text="a"), TextBlock(text="b")]),
        CitationBlock(
            cited_content=TextBlock(text="a\nb"), source="s", title="t", additional_location_info={}
        ),
    ],
)
def test_cited_text_is_text(block: Any) -> None:
    message = ChatMessage(blocks=[TextBlock(text="see:"), block])
    assert seen(message)[0]["content"] == "see:\na\nb"


def _cited(block: Any) -> CitableBlock:
    return CitableBlock(title="t", source="s", content=[TextBlock(text="a"), block])


@pytest.mark.parametrize("way", EITHER)
@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (ImageBlock(image=PNG), "image"),
        (ImageBlock(url="http://127.0.0.1:9/a.png"), "image"),
        (AudioBlock(audio=b"RIFF"), "audio"),
        (VideoBlock(video=b"xx"), "video"),
        (DocumentBlock(data=b"%PDF-1.4"), "document"),
        (_cited(ImageBlock(image=PNG)), "image"),
        (_cited(DocumentBlock(data=b"%PDF-1.4")), "document"),
    ],
    ids=["image", "image by address", "audio", "video", "document", "cited image", "cited PDF"],
)
async def test_what_is_no_text_is_refused_by_name(way: str, block: Any, kind: str) -> None:
    llm = scripted("x")
    message = ChatMessage(blocks=[TextBlock(text="what is this?"), block])
    with pytest.raises(ConfigError, match=f"message 1 holds a block of type '{kind}'"):
        await ask(way, llm, [*HI, message])
    assert llm.small.requests == []


def test_images_of_older_messages_are_refused_as_well() -> None:
    image = ImageDocument(image=base64.b64encode(PNG).decode())
    message = ChatMessage("what is this?", additional_kwargs={"images": [image]})
    with pytest.raises(ConfigError, match="message 0 holds a block of type 'image'"):
        scripted("x").chat([message])


def test_an_image_in_a_tool_s_result_is_refused() -> None:
    result = ChatMessage(role="tool", blocks=[ImageBlock(image=PNG)])
    with pytest.raises(ConfigError, match="message 1 holds a block of type 'image'"):
        scripted("x").chat([*HI, result])


@pytest.mark.parametrize("way", EITHER)
@pytest.mark.parametrize(
    ("messages", "error"),
    [([], "the conversation is empty"), ([ChatMessage()], "every message .* is blank")],
)
async def test_a_conversation_of_nothing_is_refused(way: str, messages: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        await ask(way, scripted("x"), messages)


# -- tool calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [{"city": "Zürich"}, '{"city": "Zürich"}'])
def test_calls_are_read_from_blocks(written: Any) -> None:
    block = ToolCallBlock(tool_call_id="1", tool_name="get_weather", tool_kwargs=written)
    message = ChatMessage(role="assistant", blocks=[TextBlock(text="Look."), block])
    result = seen(*HI, message)[-1]
    assert result["content"] == "Look."
    (call,) = result["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("1", "function", "get_weather")
    assert call["function"]["arguments"] == '{"city": "Zürich"}', "as it was, not escaped"


def test_arguments_that_are_no_json_stay_what_they_are() -> None:
    block = ToolCallBlock(tool_name="get_weather", tool_kwargs='{"city": Par')
    result = seen(*HI, ChatMessage(role="assistant", blocks=[block]))[-1]
    assert result["tool_calls"][0]["function"]["arguments"] == '{"city": Par'


def test_arguments_that_json_cannot_write_are_named() -> None:
    block = ToolCallBlock(tool_name="look", tool_kwargs={"day": datetime.date(2020, 1, 1)})
    with pytest.raises(ConfigError, match="look"):
        scripted("x").chat([*HI, ChatMessage(role="assistant", blocks=[block])])


@pytest.mark.parametrize(
    "call",
    [
        PARIS_CALL,
        ChatCompletionMessageToolCall.model_validate(PARIS_CALL),
        {
            "id": "1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
        },
    ],
    ids=["dictionary", "OpenAI's object", "arguments as data"],
)
def test_calls_are_read_as_older_integrations_kept_them(call: Any) -> None:
    message = ChatMessage(role="assistant", content=None, additional_kwargs={"tool_calls": [call]})
    assert seen(*HI, message)[-1]["tool_calls"] == [PARIS_CALL]


def test_calls_in_both_places_are_the_same_calls() -> None:
    block = ToolCallBlock(tool_call_id="2", tool_name="clock", tool_kwargs={})
    kwargs = {"tool_calls": [PARIS_CALL]}
    message = ChatMessage(role="assistant", blocks=[block], additional_kwargs=kwargs)
    result = seen(*HI, message)[-1]["tool_calls"]
    assert [call["function"]["name"] for call in result] == ["clock"]


def test_a_call_that_is_none_is_named() -> None:
    message = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"name": "look"}]})
    with pytest.raises(ConfigError, match="message 1 holds the tool call"):
        scripted("x").chat([*HI, message])


@pytest.mark.parametrize("way", CHATS)
async def test_a_reply_with_a_call_can_be_continued(way: str) -> None:
    asked = scripted("Look.", *of_own_accord(CALL))
    tools = [tool.metadata.to_openai_tool() for tool in TOOLS]
    message = (await ask(way, asked, tools=tools)).message
    (block,) = [b for b in message.blocks if isinstance(b, ToolCallBlock)]
    result = ChatMessage(
        "sunny", role="tool", additional_kwargs={"tool_call_id": block.tool_call_id}
    )
    outcome = seen(*HI, message, result)
    function = outcome[1]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == PARIS
    assert outcome[1]["tool_calls"][0]["id"] == outcome[2]["tool_call_id"]
    assert outcome[1]["content"] == "Look."
