"""Services that continue the last message of a chat: DeepSeek, Mistral, OpenRouter.

The router gives every backend one text: what ``render`` returned, followed by what was written
since. These services need messages instead. So ``render`` writes the conversation as one line of
JSON. JSON escapes every newline, so the first newline of the prompt ends the conversation, and
``Turn.read`` recovers both parts exactly. For models that think, a think tag is opened after that
line, as a chat template would do it.

A thought that is still open is sent like this:

- DeepSeek: in ``reasoning_content`` of the message. This is documented as the input for the chain
  of thought. Whether the model continues *inside* it is not documented; probe P5 tries it.
- Mistral: as a ``thinking`` chunk with ``closed: false``, which is documented for this purpose.
- OpenRouter: in ``reasoning`` of the message. What a provider does with it is not documented.

Replies carry the thought in a field of its own. The parser turns it back into text, and writes the
closing tag where the answer begins.

Sources: DeepSeek API docs "Chat Prefix Completion (Beta)" and "Create Chat Completion" (assistant
message); mistralai 3.7 ``AssistantMessage.prefix``, ``ThinkChunk.closed``, ``DeltaMessage``;
openrouter 1.3 ``ChatAssistantMessage``, ``ChatStreamDelta``, ``ProviderPreferences``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, Report
from glimp_integrations.backends.http.chunks import note_usage
from glimp_integrations.backends.http.protocols.base import (
    ChunkParser,
    Identity,
    ModelEndpoint,
    Protocol,
    RequestContext,
    choice_of,
)
from glimp_integrations.backends.http.protocols.completions import listed_entry, window_of
from glimp_integrations.backends.http.replies import ListedModel
from glimp_integrations.backends.http.servers import ServerProfile, sampling_fields
from glimp_integrations.errors import ConfigError

__all__ = ["Chat", "Echo", "Turn", "header"]

OPEN, CLOSE = "<think>", "</think>"


class Chat(Protocol):
    """The last message of a chat is continued. Serves as the large model only."""

    route = "POST /chat/completions"
    remedy = "Is base_url the address of this service?"
    exact_text = False

    def path(self, root: str, context: RequestContext) -> str:
        return "/chat/completions"

    def body(self, context: RequestContext) -> dict[str, Any]:
        request, server = context.request, context.server
        turn = Turn.read(request.prompt)
        body: dict[str, Any] = {
            "model": context.model,
            "messages": [*turn.messages, *turn.continued_message(server)],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            # Some services refuse any other value for greedy decoding, where it has no effect.
            "top_p": request.top_p if request.temperature > 0 else 1.0,
            "stream": True,
        }
        if server.stream_options:
            body["stream_options"] = dict(server.stream_options)
        if context.stop:
            body["stop"] = list(context.stop)
        if request.seed is not None and server.seed_field is not None:
            body[server.seed_field] = request.seed
        thinking = server.thinking_body.get(turn.thinks, {})
        own = {**server.body, **sampling_fields(server, request)}
        return {**body, **own, **thinking, **context.extra_body}

    def parser(self, context: RequestContext) -> ChunkParser:
        return _Parser(Turn.read(context.request.prompt), context.server)

    async def identify(self, endpoint: ModelEndpoint, listed: list[ListedModel] | None) -> Identity:
        entry = await listed_entry(endpoint, listed)
        assert endpoint.model is not None
        return Identity(endpoint.model, window_of(entry, endpoint.server))

    async def render(
        self,
        endpoint: ModelEndpoint,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        thinks = endpoint.thinks
        return Rendered(header(messages, thinks=thinks) + (f"{OPEN}\n" if thinks else ""))


def header(messages: Sequence[Message], *, thinks: bool) -> str:
    """A conversation as one line of JSON; the model's own text follows it."""
    # Only fields that all of these services document. Tool calls are text already.
    shown = [
        {"role": "system" if m["role"] == "developer" else m["role"], "content": m["content"]}
        for m in messages
    ]
    return json.dumps({"messages": shown, "thinks": thinks}) + "\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt of this protocol, split into its parts.

    Attributes:
        messages: The conversation.
        thinks: Whether the model thinks before it answers.
        thought: The thought so far.
        closed: Whether the thought is complete (true for models that do not think).
        answer: The answer so far.
    """

    messages: list[dict[str, Any]]
    thinks: bool
    thought: str
    closed: bool
    answer: str

    @classmethod
    def read(cls, prompt: str) -> Turn:
        """Split a prompt.

        Raises:
            ConfigError: It was not made by ``render``.
        """
        head, _, text = prompt.partition("\n")
        try:
            conversation = json.loads(head)
            messages, thinks = list(conversation["messages"]), bool(conversation["thinks"])
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                "a service that continues a chat got a text that its own render() did not make: "
                "prompts of other models cannot be sent to it"
            ) from None
        if not thinks or not text.startswith(OPEN):
            return cls(messages, thinks, "", True, text)
        thought, think_end_tag, answer = text.removeprefix(OPEN).removeprefix("\n").partition(CLOSE)
        # The service puts its own separator between thought and answer.
        return cls(messages, thinks, thought, bool(think_end_tag), answer.lstrip("\n"))

    def continued_message(self, server: ServerProfile) -> list[dict[str, Any]]:
        """The message to be continued, in a list; an empty list while nothing was written."""
        if not self.thought and not self.answer:
            return []
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.answer,
            **server.continue_fields,
        }
        if self.thought and server.reasoning_field == "thinking_chunk":
            inner = [{"type": "text", "text": self.thought}]
            chunks = [{"type": "thinking", "thinking": inner, "closed": self.closed}]
            if self.answer:
                chunks.append({"type": "text", "text": self.answer})
            message["content"] = chunks
        elif self.thought and server.reasoning_field is not None:
            message[server.reasoning_field] = self.thought
        return [message]


class Echo:
    """Removes a prefix that a stream may repeat at its beginning.

    Args:
        text: The prefix; if empty, nothing is removed.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._seen = ""

    def feed(self, piece: str) -> str:
        """The new text in a piece of the stream.

        While the pieces so far could still be the prefix they are held back, and this is empty.
        """
        if not self._text:
            return piece
        self._seen += piece
        if self._text.startswith(self._seen) and self._seen != self._text:
            return ""
        return self.rest()

    def rest(self) -> str:
        """The new text in what was held back. No prefix is looked for from here on."""
        text, seen = self._text, self._seen
        self._text = self._seen = ""
        trimmed = text.rstrip()
        if text and seen.startswith(text):
            return seen[len(text) :]
        # Some repeat the prefix without the whitespace at its end. Probe P5 reports that; here the
        # words at least must not appear twice.
        if trimmed and seen.startswith(trimmed):
            return seen[len(trimmed) :]
        return seen


class _Parser(ChunkParser):
    def __init__(self, turn: Turn, server: ServerProfile) -> None:
        self._cached_path = server.cached_path
        self._open = turn.thinks and not turn.closed
        self._thought = Echo(turn.thought if server.echoes_prefix else "")
        self._answer = Echo(turn.answer if server.echoes_prefix else "")

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report, self._cached_path)
        choices: list[dict[str, Any]] = []
        for choice in chunk.get("choices") or ():
            thought, answer = _texts(choice.get("delta") or {})
            if thought and self._open:
                choices.append(choice_of(self._thought.feed(thought)))
            elif thought:
                # The model reasons again after its answer has begun. That is not a part of the
                # text; probe P5 reports it.
                choices.append({"text": "", "thought": thought})
            if answer:
                choices += self._close()
                choices.append(choice_of(self._answer.feed(answer)))
            if choice.get("finish_reason"):
                choices.append(choice_of("", finish=choice["finish_reason"]))
        return choices

    def rest(self) -> list[dict[str, Any]]:
        return [
            choice_of(text)
            for text in (self._thought.rest() if self._open else "", self._answer.rest())
            if text
        ]

    def _close(self) -> list[dict[str, Any]]:
        """The end of an open thought: what was held back of it, and the closing tag."""
        if not self._open:
            return []
        self._open = False
        return [choice_of(self._thought.rest() + CLOSE)]


def _texts(delta: Mapping[str, Any]) -> tuple[str, str]:
    """The thought and the answer in a delta."""
    content = delta.get("content") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    if isinstance(content, str):
        return thought, content
    parts = {"thinking": [thought], "text": [""]}
    for item in content:
        if item.get("type") == "thinking":
            parts["thinking"] += [inner.get("text") or "" for inner in item.get("thinking") or ()]
        elif item.get("type") == "text":
            parts["text"].append(item.get("text") or "")
    return "".join(parts["thinking"]), "".join(parts["text"])
