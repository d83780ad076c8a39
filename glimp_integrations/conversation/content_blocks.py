"""Messages whose content comes in blocks, in whatever provider's words: to text, calls, results.

Block types, by where they are written down: ``langchain_core.messages.content`` (standard blocks),
OpenAI's "Create a model response" (Responses API, items of ``input``), Anthropic's "Create a
Message" (``messages[].content``), Amazon Bedrock's ``ContentBlock`` (Converse), Google's ``Part``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["Content", "each_once", "on_a_line", "read_blocks"]

_TEXTS = ("text", "input_text", "output_text")
# Blocks that a provider writes for itself: thoughts, its own servers' tools, marks for its cache.
# Whatever of them belongs to the conversation is in the text around them.
_PRIVATE = frozenset(
    {
        # thoughts
        "reasoning",
        "reasoning_content",
        "reasoning_text",
        "summary_text",
        "thinking",
        "redacted_thinking",
        "encrypted_content",
        "compaction",
        # tools that the provider's servers called
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_result",
        "server_tool_use",
        "web_search_call",
        "web_search_result",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "file_search_call",
        "code_interpreter_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
        "tool_search_output",
        "tool_search_tool_result",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_tool_use",
        "mcp_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "executable_code",
        "code_execution_result",
        # marks
        "cachePoint",
        "cache_point",
        "item_reference",
        # pieces of calls; the whole call stands elsewhere
        "tool_call_chunk",
        "input_json_delta",
        "function_call_arguments",
    }
)
# Of a call: where its id and its arguments are.
_CALLS = {
    "tool_use": ("id", "input"),
    "tool_call": ("id", "args"),
    "invalid_tool_call": ("id", "args"),
    "function_call": ("call_id", "arguments"),
    "custom_tool_call": ("call_id", "input"),
}
# Bedrock's blocks have no type, but one key that says what they are.
_KEYS = ("text", "json", "guard_content", "guardContent", "reasoningContent", "cachePoint")


@dataclass(slots=True)
class Content:
    """What a message's blocks say.

    Attributes:
        text: Their text.
        calls: Tool calls among them, in OpenAI's format.
        results: Results of tools among them (Anthropic's user messages), as messages of role
            ``tool``.
    """

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def read_blocks(where: str, role: str, blocks: Sequence[Any], *, strict: bool = True) -> Content:
    """Take a message's blocks apart.

    Blocks are things of their own, so each begins on a line of its own: what a tool returned as
    ``["1", "2", "30"]`` is not 1230. What an *assistant* said is joined as it was written, for
    providers cut one sentence into several blocks (a stream's pieces, cited passages). Only where
    another block stood between two of them, or where their ids tell two messages apart, a line
    begins.

    Args:
        where: The message, for errors.
        role: Whose message it is.
        blocks: Texts and mappings with a ``type``.
        strict: What cannot be read is an error; else it is left out.

    Raises:
        ConfigError: A block holds no text, and something else that matters: a picture, sound, a
            file, or what is not known here.
    """
    content = Content()
    as_written, apart, last_id = role == "assistant", False, None
    for block in blocks:
        text = _read(where, block, content, strict=strict)
        if text is None:
            apart = True
            continue
        this_id = block.get("id") if isinstance(block, Mapping) else None
        other = None not in (last_id, this_id) and last_id != this_id
        if not as_written or apart or other:
            content.text = on_a_line(content.text, text)
        else:
            content.text += text
        apart, last_id = False, this_id
    return content


def on_a_line(before: str, text: str) -> str:
    """``text`` after ``before``, on a line of its own."""
    begun = not before or not text or before.endswith("\n") or text.startswith("\n")
    return before + ("" if begun else "\n") + text


def _read(where: str, block: Any, content: Content, *, strict: bool) -> str | None:
    """A block's text; ``None``: it has none and may be passed over."""
    if isinstance(block, str):
        return block
    kind = _kind(block)
    if kind in _PRIVATE or kind == "reasoningContent":
        return None
    if kind in _CALLS:
        _add_call(kind, block, content)
        return None
    if kind == "tool_result":
        result = {
            "role": "tool",
            "content": block.get("content") or "",
            "tool_call_id": block.get("tool_use_id"),
        }
        content.results.append(result)
        return None
    if kind == "non_standard":
        return _wrapped(where, block.get("value"), content, strict=strict)
    if kind == "refusal":
        refusal = block.get("refusal")
        return refusal if isinstance(refusal, str) and refusal else None
    text = _text(where, kind, block, strict=strict)
    if text is not None or not strict:
        return text
    if kind in _TEXTS:
        raise ConfigError(f"{where} holds a text block without a 'text': {block!r}")
    raise ConfigError(
        f"{where} holds a block of type {kind!r}; these models read text only: give what it says "
        "as {'type': 'text', 'text': ...}, or leave it out"
    )


def _kind(block: Any) -> str:
    if not isinstance(block, Mapping):
        return type(block).__name__
    if isinstance(block.get("type"), str):
        return str(block["type"])
    return next((key for key in _KEYS if key in block), ", ".join(map(str, block)) or "nothing")


def _wrapped(where: str, value: Any, content: Content, *, strict: bool) -> str | None:
    """A part of a provider's message that LangChain has no block for."""
    if not isinstance(value, Mapping):
        return None
    kind = _kind(value)
    is_known = kind in _MEDIA or kind in _TEXTS or kind in (*_CALLS, "tool_result", "refusal")
    return _read(where, value, content, strict=strict) if is_known else None


_MEDIA = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "image_generation_call",
        "audio",
        "input_audio",
        "video",
        "video_url",
        "file",
        "input_file",
        "file_data",
        "media",
        "document",
        "container_upload",
    }
)


def _text(where: str, kind: str, block: Mapping[str, Any], *, strict: bool) -> str | None:
    """The text of a block that is read; ``None``: it is none."""
    text: Any = None
    if kind in (*_TEXTS, "text-plain"):
        text = block.get("text")
    elif kind == "json" and "json" in block:
        text = json.dumps(block["json"], ensure_ascii=False, default=str)
    elif kind in ("guard_content", "guardContent"):
        text = block.get(kind)
        while isinstance(text, Mapping):
            text = text.get("text")
    elif kind == "search_result" and "content" in block:
        inner = read_blocks(where, "tool", _listed(block["content"]), strict=strict)
        heads = [block.get("title"), block.get("source")]
        text = "\n".join([*(h for h in heads if isinstance(h, str) and h), inner.text])
    elif kind == "document" and isinstance(source := block.get("source"), Mapping):
        if source.get("type") == "text":
            text = source.get("data")
        elif source.get("type") == "content":
            text = read_blocks(where, "tool", _listed(source.get("content")), strict=strict).text
        title = block.get("title")
        if isinstance(text, str) and isinstance(title, str) and title:
            text = f"{title}\n{text}"
    return text if isinstance(text, str) else None


def _listed(content: Any) -> list[Any]:
    return list(content) if isinstance(content, list | tuple) else [content or ""]


def _add_call(kind: str, block: Mapping[str, Any], content: Content) -> None:
    id_key, key = _CALLS[kind]
    name, arguments = block.get("name"), block.get(key)
    if arguments is None:  # Google's calls are named like OpenAI's
        arguments = block.get("args")
    if kind == "custom_tool_call":  # as LangChain reads them
        arguments = {"__arg1": arguments}
    if kind == "invalid_tool_call" and name is None and isinstance(arguments, str):
        content.text = on_a_line(content.text, arguments)  # too broken to be one
    if isinstance(name, str):
        content.calls.append(
            {
                "id": block.get(id_key) or block.get("id"),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )


def each_once(calls: Sequence[Any], in_blocks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Calls of a message, which most providers tell twice: in a field, and in blocks."""
    unique = list(calls)
    for call in in_blocks:
        if not any(_is_same(call, other) for other in unique):
            unique.append(call)
    return unique


def _is_same(call: Mapping[str, Any], other: Any) -> bool:
    if not isinstance(other, Mapping):
        return False
    if call["id"] is not None and other.get("id") is not None:
        return bool(call["id"] == other["id"])
    return bool(_read_call(call) == _read_call(other))


def _read_call(call: Mapping[str, Any]) -> Any:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return function
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return function.get("name"), arguments
