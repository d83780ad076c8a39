"""What the models are told about the output in words: the answer's schema, and tools as text. Pure.

Used where a chat template cannot say it: no template shows an answer's schema, and some know
nothing of tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.output.json_schema import ANY_OBJECT
from glimp_integrations.output.json_values import dump
from glimp_integrations.output.spec import OutputSpec

__all__ = ["knows_tools", "show_schema", "write_tools_out"]


def show_schema(messages: Sequence[Mapping[str, Any]], spec: OutputSpec) -> list[dict[str, Any]]:
    """Add the answer's schema to the conversation, with the request to think first.

    The text is appended to the system message. Without a system message it is put in front of the
    first user message, because not every chat template takes a system message.

    Args:
        messages: The conversation, with roles and texts; it is not changed.
        spec: What the caller asks for. Without a schema, or with JSON mode's "any object", there
            is nothing to add.

    Returns:
        A copy of the conversation.
    """
    copies = [dict(message) for message in messages]
    if spec.schema is None or spec.schema == ANY_OBJECT:
        return copies
    text = (
        "First think step by step, in words. Then give the answer as JSON that follows this JSON "
        f"schema:\n{dump(spec.schema)}"
    )
    return _add(copies, text)


def write_tools_out(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Write tools, calls and results as plain text, for templates that know nothing of tools.

    Args:
        messages: The conversation, whose calls and results are in OpenAI's format; it is not
            changed.
        tools: Tools in OpenAI's format that the model may call; empty: only the history is
            rewritten.

    Returns:
        A copy of the conversation in which every message has a text.
    """
    written: list[dict[str, Any]] = []
    for message in messages:
        content, calls = message["content"], message.get("tool_calls") or ()
        if message["role"] == "tool":
            name = message.get("name") or message.get("tool_call_id") or "the tool"
            written.append({"role": "user", "content": f"Result of {name}:\n{content}"})
        elif calls:
            texts = [content] if content else []
            for call in calls:
                function = call["function"]
                texts.append(
                    f'```json\n{{"name": {json.dumps(function["name"])}, '
                    f'"arguments": {function["arguments"]}}}\n```'
                )
            written.append({"role": "assistant", "content": "\n\n".join(texts)})
        else:
            written.append(dict(message))
    if not tools:
        return written
    functions = "\n".join(dump(tool["function"]) for tool in tools)
    text = (
        f"You may call these tools:\n{functions}\nTo call one, write nothing but\n"
        '```json\n{"name": "<name of the tool>", "arguments": {...}}\n```'
    )
    return _add(written, text)


def knows_tools(template: str) -> bool:
    """Whether a chat template reads tools, by the name under which templates get them."""
    return re.search(r"\btools\b", template) is not None


def _add(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Put an instruction where a template shows it: the system message, else the first question."""
    for message in messages:
        if message["role"] in ("system", "developer"):
            message["content"] = f"{message['content']}\n\n{text}".lstrip()
            return messages
    for message in messages:
        if message["role"] == "user":
            message["content"] = f"{text}\n\n{message['content']}"
            return messages
    return [{"role": "user", "content": text}, *messages]
