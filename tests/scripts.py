"""Scripts of models that think, call tools and answer, for any framework's tests."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.backends.base import Message, Rendered, Report, Request, Token
from glimp_integrations.backends.scripted import ScriptedToken

ROUTED: dict[str, Any] = {"temperature": 0, "route": "always"}
"""Settings of models that write the same in every call.

By default calls are also written by the large model alone, to compare, once routed ones took a
second in all: which ones, the machine's speed decides.
"""

OPENED = "<assistant>\n<think>\n"
HERMES = "{% if tools %}<tool_call>{% endif %}"
"""A chat template that knows tools, of a family that writes calls in Hermes' tags."""


def tokens(*items: str | tuple[str, float]) -> list[ScriptedToken]:
    pairs = [(item, 0.0) if isinstance(item, str) else item for item in items]
    return [(text.encode(), entropy) for text, entropy in pairs]


# An easy step and a hard one, in tags and without: H = 2 goes to the large model.
THOUGHT = tokens(
    ("First", 0.1),
    ".\n\n",
    ("Then", 2.0),
    ".\n",
    "</think>",
    "\n\n",
)
REASONING = "First.\n\nThen.\n"
SPOKEN = tokens(("First", 0.1), ".\n\n", ("Then", 2.0), ".\n\n")
SPOKEN_TEXT = "First.\n\nThen.\n\n"

CALL = ['{"name": "get_weather", ', '"arguments": {"city": ', '"Paris"}}']
NOON = ['{"name": "clock", ', '"arguments": {}}']
PARIS = ("get_weather", {"city": "Paris"})

# One of each sort: numbers, zero and None where that is not the default, pairs, lists.
UNUSUAL: dict[str, Any] = {
    "temperature": 0.0,
    "seed": 0,
    "timeout": None,
    "max_retries": 0,
    "max_tokens": 7,
    "answer_by": "router",
    "answer_marker": "So:",
    "step_delimiter": "\n",
    "think_tags": ("<a>", "</a>"),
    "stop": ["x", "y"],
    "show_schema": False,
    "draft": "prompt_lookup",
    "warm_prefix_cache": True,
    "step_events": True,
}
"""Settings other than the defaults, for models that are stored and loaded again."""

KEY, PASSWORD, TOKEN = "sk-hush-hush", "hunter2", "query-hush"
SECRET_SMALL = f"openai:S@http://user:{PASSWORD}@127.0.0.1:9/v1?token={TOKEN}"
SECRET_LARGE = f"openai:L@http://{PASSWORD}@127.0.0.1:9/v1"
BASIC = b64encode(f"user:{PASSWORD}".encode()).decode()


def tells_a_secret(text: str) -> bool:
    """Whether key, password (also as in a Basic header) or query value is in a text."""
    return any(secret in text for secret in (KEY, PASSWORD, BASIC, TOKEN))


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"Sunny in {city}."


def clock() -> str:
    """The time."""
    return "noon"


def of_own_accord(call: Sequence[str], *, supports_schema: bool = True) -> list[str]:
    """A call nobody asked for: where the author is bound, it ends with the JSON and goes on."""
    return ["<tool_call>", "\n", *call, *([""] if supports_schema else []), "\n</tool_call>"]


def demanded(call: Sequence[str], *, supports_schema: bool = True) -> list[str]:
    """A call whose lead the router writes."""
    return ["<tool_call>\n", *call, "" if supports_schema else "\n</tool_call>"]


def answer(text: Sequence[str], *, supports_schema: bool = True) -> list[str]:
    """JSON of a schema, behind the lead that only the model sees."""
    return ["```json\n", *text, "" if supports_schema else "\n```"]


class Listening(ScriptedBackend):
    """Keeps what it is asked to render."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conversations: list[list[dict[str, Any]]] = []
        self.tools: list[list[Mapping[str, Any]]] = []

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        self.conversations.append([dict(message) for message in messages])
        self.tools.append(list(tools))
        return await super().render(messages, tools)


class Turns(Listening):
    """Replies by how many tool results the conversation holds."""

    def __init__(self, *replies: Sequence[str], **options: Any) -> None:
        super().__init__([], **{**_thinking(), "supports_schema": True, **options})
        self._turns = [model(*reply)._next for reply in replies]

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        listed = request.prompt.count('<tool>{"type": "function"')
        results = request.prompt.count("<tool>") - listed
        self._next = self._turns[results]
        return super().generate(request, report)


def _thinking() -> dict[str, Any]:
    return {"template": HERMES, "generation_prompt": OPENED}


def model(
    *behind: str, tags: bool = True, thinks: bool = True, kind: Any = Listening, **options: Any
) -> Any:
    """A model that thinks (without tags: speaks) and goes on like this, then ends."""
    options = {**_thinking(), "supports_schema": True, **options}
    if not tags:
        options["generation_prompt"] = "<assistant>\n"
    before = THOUGHT if tags else SPOKEN
    return kind([*(before if thinks else THOUGHT[-2:]), *tokens(*behind, "")], **options)


def pair(*behind: str, **options: Any) -> dict[str, Any]:
    return {
        "small": model(*behind, name="tiny", **options),
        "large": model(*behind, name="big", **options),
    }


def bound(backend: ScriptedBackend) -> list[Request]:
    return [request for request in backend.requests if request.schema is not None]


def callable_names(schema: Mapping[str, Any] | None) -> list[str]:
    """Names of the tools a bound request may call."""
    assert schema is not None
    choices = schema.get("anyOf", [schema])
    return [c["properties"]["name"]["const"] for c in choices if "properties" in c]


def shown_tools(backend: ScriptedBackend) -> list[dict[str, Any]]:
    """Tools in the prompt of a backend's first request."""
    lines = backend.requests[0].prompt.splitlines()
    return [json.loads(line.removeprefix("<tool>")) for line in lines if line.startswith("<tool>{")]
