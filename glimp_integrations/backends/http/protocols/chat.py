"""Services that continue the last message of a chat: DeepSeek, Mistral, OpenRouter.

The router hands every backend one text: what ``render`` returned, and what was written since.
Here ``render`` returns the conversation as one line of JSON, which holds no newline whatever the
messages hold, so that the first newline ends it: ``Turn.read`` gets both back exactly. Models that
think get their thought opened behind that line, as a chat template would do it.

How a thought that is still open is handed over:

- DeepSeek: ``reasoning_content`` of the message. Documented as the input for the chain of thought;
  whether the model goes on *inside* it is not. Probe P5 asks.
- Mistral: a ``thinking`` chunk with ``closed: false``, which is documented for this purpose.
- OpenRouter: ``reasoning`` of the message; what a host makes of it is not documented.

Replies carry the thought in a field of its own. It becomes text again: the closing tag is written
where the answer begins.

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
    Ask,
    Identity,
    ModelEndpoint,
    Protocol,
    Reading,
    choice_of,
)
from glimp_integrations.backends.http.protocols.completions import listed_entry
from glimp_integrations.backends.http.servers import Flavour
from glimp_integrations.errors import ConfigError

__all__ = ["Chat", "Echo", "Turn", "header"]

OPEN, CLOSE = "<think>", "</think>"


class Chat(Protocol):
    """See the module's docstring."""

    route = "POST /chat/completions"
    remedy = "Is base_url the address of this service?"
    exact_text = False

    def path(self, root: str, ask: Ask) -> str:
        return "/chat/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        request, flavour = ask.request, ask.flavour
        turn = Turn.read(request.prompt)
        body: dict[str, Any] = {
            "model": ask.model,
            "messages": [*turn.messages, *turn.partial(flavour)],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            # Some refuse anything else for greedy sampling, where it means nothing.
            "top_p": request.top_p if request.temperature > 0 else 1.0,
            "stream": True,
        }
        if flavour.stream_options:
            body["stream_options"] = dict(flavour.stream_options)
        if ask.stop:
            body["stop"] = list(ask.stop)
        if request.seed is not None and flavour.seed is not None:
            body[flavour.seed] = request.seed
        return {**body, **flavour.body, **flavour.thinking_body.get(turn.thinks, {}), **ask.extra}

    def reading(self, ask: Ask) -> Reading:
        return _Reading(Turn.read(ask.request.prompt), ask.flavour)

    async def identify(
        self, endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
    ) -> Identity:
        entry = await listed_entry(endpoint, listed)
        assert endpoint.model is not None
        return Identity(endpoint.model, (entry or {}).get(endpoint.flavour.window))

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
    """A conversation as one line; the model's own text goes behind it."""
    # Only what all of these services document; calls were written out as text before.
    shown = [
        {"role": "system" if m["role"] == "developer" else m["role"], "content": m["content"]}
        for m in messages
    ]
    return json.dumps({"messages": shown, "thinks": thinks}) + "\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt of this protocol, taken apart.

    Attributes:
        messages: The conversation.
        thinks: Whether the model thinks before it answers.
        thought: The thought so far.
        closed: Whether it is over (true for models that do not think).
        answer: The text behind it.
    """

    messages: list[dict[str, Any]]
    thinks: bool
    thought: str
    closed: bool
    answer: str

    @classmethod
    def read(cls, prompt: str) -> Turn:
        """Take a prompt apart.

        Raises:
            ConfigError: It was not made by ``render``.
        """
        head, _, text = prompt.partition("\n")
        try:
            told = json.loads(head)
            messages, thinks = list(told["messages"]), bool(told["thinks"])
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                "a service that continues a chat got a text that its own render() did not make: "
                "prompts of other models cannot be sent to it"
            ) from None
        if not thinks or not text.startswith(OPEN):
            return cls(messages, thinks, "", True, text)
        thought, think_end_tag, answer = text.removeprefix(OPEN).removeprefix("\n").partition(CLOSE)
        # The service writes its own seam between thought and answer.
        return cls(messages, thinks, thought, bool(think_end_tag), answer.lstrip("\n"))

    def partial(self, flavour: Flavour) -> list[dict[str, Any]]:
        """The message to be continued; none while nothing was written."""
        if not self.thought and not self.answer:
            return []
        message: dict[str, Any] = {"role": "assistant", "content": self.answer, **flavour.partial}
        if self.thought and flavour.thought == "thinking_chunk":
            inner = [{"type": "text", "text": self.thought}]
            chunks = [{"type": "thinking", "thinking": inner, "closed": self.closed}]
            if self.answer:
                chunks.append({"type": "text", "text": self.answer})
            message["content"] = chunks
        elif self.thought and flavour.thought is not None:
            message[flavour.thought] = self.thought
        return [message]


class Echo:
    """Takes a text that is repeated at the beginning of a stream out of it.

    Args:
        text: What may be repeated; empty: nothing.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._seen = ""

    def feed(self, piece: str) -> str:
        """What of a piece is new; held back while that is not clear."""
        if not self._text:
            return piece
        self._seen += piece
        if self._text.startswith(self._seen) and self._seen != self._text:
            return ""
        return self.rest()

    def rest(self) -> str:
        """What was held back; nothing is looked for from here on."""
        text, seen = self._text, self._seen
        self._text = self._seen = ""
        trimmed = text.rstrip()
        if text and seen.startswith(text):
            return seen[len(text) :]
        # Without the blank line at its end: P5 tells, and the words at least do not come twice.
        if trimmed and seen.startswith(trimmed):
            return seen[len(trimmed) :]
        return seen


class _Reading(Reading):
    def __init__(self, turn: Turn, flavour: Flavour) -> None:
        self._cached = flavour.cached
        self._open = turn.thinks and not turn.closed
        self._thought = Echo(turn.thought if flavour.echoes else "")
        self._answer = Echo(turn.answer if flavour.echoes else "")

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report, self._cached)
        found: list[dict[str, Any]] = []
        for choice in chunk.get("choices") or ():
            thought, answer = _texts(choice.get("delta") or {})
            if thought and self._open:
                found.append(choice_of(self._thought.feed(thought)))
            elif thought:
                # It thinks anew behind its answer's beginning. That is no part of the text; the
                # probe P5 looks for it.
                found.append({"text": "", "thought": thought})
            if answer:
                found += self._close()
                found.append(choice_of(self._answer.feed(answer)))
            if choice.get("finish_reason"):
                found.append(choice_of("", finish=choice["finish_reason"]))
        return found

    def rest(self) -> list[dict[str, Any]]:
        return [
            choice_of(text)
            for text in (self._thought.rest() if self._open else "", self._answer.rest())
            if text
        ]

    def _close(self) -> list[dict[str, Any]]:
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
