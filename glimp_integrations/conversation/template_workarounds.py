"""Conversations in plainer words, for chat templates that cannot read them as they are.

A template may refuse what it does not know, which is an error, or leave it out, which is worse:
the reply then answers another conversation than the one that was given. So what a template is
known to leave out is said otherwise from the start, what is suspected to be missing is looked
for, and what cannot be said at all is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from glimp_integrations.backends.base import Backend, Message, Rendered
from glimp_integrations.backends.plain_messages import broken_calls_as_text
from glimp_integrations.errors import ConfigError
from glimp_integrations.output import instructions

__all__ = ["render"]

_INSTRUCTIONS = ("system", "developer")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


async def render(
    backend: Backend, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Rendered:
    """Render a conversation so that all instructions and results in it arrive.

    As it is, if the template takes it; else in the plainest change of it that the template takes.

    Raises:
        ConfigError: There is no template, or it refuses the conversation, or it leaves a message
            out whatever the conversation is changed to.
        BackendError: The server failed.
    """
    refusal: ConfigError | None = None
    for number, attempt in enumerate(_attempts(messages)):
        try:
            rendered = await (backend.render(attempt, tools) if tools else backend.render(attempt))
        except ConfigError as error:
            refusal = refusal or error
            continue
        lost = await _lost(backend, attempt, tools, rendered.text, changed=number > 0)
        if lost is None:
            return rendered
        refusal = refusal or ConfigError(
            f"the chat template of {backend.name} leaves out message {lost}, of role "
            f"{attempt[lost]['role']!r}: say it in a message of role 'user', or give a template "
            "that knows this role with chat_template='<Jinja source>'"
        )
    assert refusal is not None
    raise refusal


def _attempts(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation, as it is and ever plainer; nothing twice."""
    first = [*messages]
    yield first
    seen = [first]
    calls = _short_ids(broken_calls_as_text(first))
    results = _results_as_text(calls)
    for plainer in (
        calls,
        _one_system_message(calls),
        _one_system_message(results),
        _no_system_message(results),
    ):
        if plainer not in seen:
            seen.append(plainer)
            yield plainer


def _short_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of calls as nine letters and digits: Mistral's templates refuse those of other models."""
    changed: list[Message] = []
    for message in messages:
        ids: dict[str, Any] = {}
        if message.get("tool_call_id") is not None:
            ids["tool_call_id"] = _short(message["tool_call_id"])
        if message.get("tool_calls"):
            ids["tool_calls"] = [
                {**call, "id": _short(call["id"])} if call.get("id") is not None else call
                for call in message["tool_calls"]
            ]
        changed.append({**message, **ids})
    return changed


def _short(id: object) -> str:
    text = str(id)
    return text if _SHORT_ID.fullmatch(text) else sha256(text.encode()).hexdigest()[:9]


def _results_as_text(messages: Sequence[Message]) -> list[Message]:
    """Results of calls that are not in the conversation, said by the user."""
    changed: list[Message] = []
    call_ids: set[Any] = set()
    for message in messages:
        call_ids |= {call.get("id") for call in message.get("tool_calls") or ()}
        if _is_orphan(message, call_ids):
            (message,) = instructions.write_tools_out([message], [])
        changed.append(message)
    return changed


def _is_orphan(message: Message, call_ids: set[Any]) -> bool:
    return message["role"] == "tool" and message.get("tool_call_id") not in call_ids


def _one_system_message(messages: Sequence[Message]) -> list[Message]:
    """Instructions in one message at the beginning; those that come later, said by the user."""
    begun = next(
        (i for i, m in enumerate(messages) if m["role"] not in _INSTRUCTIONS), len(messages)
    )
    texts = [str(m["content"]) for m in messages[:begun]]
    first = [{"role": messages[0]["role"], "content": "\n\n".join(texts)}] if texts else []
    rest = [{**m, "role": "user"} if m["role"] in _INSTRUCTIONS else m for m in messages[begun:]]
    return [*first, *_one_turn_each(rest)]


def _no_system_message(messages: Sequence[Message]) -> list[Message]:
    """All instructions said by the user."""
    return _one_turn_each(
        [{**m, "role": "user"} if m["role"] in _INSTRUCTIONS else m for m in messages]
    )


def _one_turn_each(messages: Sequence[Message]) -> list[Message]:
    """What the user says in several messages on end, in one: templates may want turns to change."""
    changed: list[Message] = []
    for message in messages:
        if changed and changed[-1]["role"] == message["role"] == "user":
            text = f"{changed[-1]['content']}\n\n{message['content']}"
            changed[-1] = {**changed[-1], "content": text}
        else:
            changed.append(message)
    return changed


async def _lost(
    backend: Backend,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    *,
    changed: bool,
) -> int | None:
    """The first message that is not in the prompt; ``None``: all that can be lost are there.

    Looked at are instructions, and results whose call is not there: templates leave these out. In
    a conversation that was ``changed``, any message may hold them. A text that is not found may
    only be written otherwise (escaped, trimmed); whether a word in its place arrives tells.
    """
    suspects: list[int] = []
    call_ids: set[Any] = set()
    for index, message in enumerate(messages):
        call_ids |= {call.get("id") for call in message.get("tool_calls") or ()}
        must_arrive = changed and message["role"] != "assistant"
        if must_arrive or message["role"] in _INSTRUCTIONS or _is_orphan(message, call_ids):
            content = str(message["content"]).strip()
            escaped = (json.dumps(content, ensure_ascii=how)[1:-1] for how in (True, False))
            if content not in text and not any(form in text for form in escaped):
                suspects.append(index)
    if not suspects:
        return None
    words = {index: f"glimp{index}arrives" for index in suspects}
    marked = [{**m, "content": words.get(i, m["content"])} for i, m in enumerate(messages)]
    try:
        shown = await (backend.render(marked, tools) if tools else backend.render(marked))
    except ConfigError:  # it reads the text, and takes no other
        return None
    return next((i for i, word in words.items() if word not in shown.text.lower()), None)
