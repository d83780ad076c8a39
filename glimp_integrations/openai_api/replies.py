"""Replies in the shapes of OpenAI's API: whole ones, and the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import to_json

from glimp_integrations.adapter import finish_reason, record, token_usage
from glimp_integrations.openai_api.tokens import tokens_by_model
from glimp_integrations.strict_json import plain, well_formed
from glimp_integrations.trace.events import (
    Event,
    Finished,
    KindResolved,
    StepStarted,
    TextDelta,
    ToolCallDelta,
)
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = [
    "Chunks",
    "ReplyHead",
    "completion",
    "model_card",
    "models_list",
    "reply_headers",
]


_PLACE = "\0"  # where a chunk has its text


class FunctionCall(BaseModel):
    """The function of a call; in a stream, a part of it."""

    name: str | None = None
    arguments: str


class Call(BaseModel):
    """A tool call; in a stream, a part of it."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class Message(BaseModel):
    """A reply's message; in a stream, what is new of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: list[Call] | None = None


class Choice(BaseModel):
    """The one reply."""

    index: int = 0
    message: Message | None = None
    delta: Message | None = None
    logprobs: None = None
    finish_reason: str | None = None


class Completion(BaseModel):
    """The body of a reply, or of one chunk."""

    id: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any] | None = None
    glimp: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What every chunk of a reply repeats.

    Attributes:
        model: The name of the model that was asked for.
        id: Identifies the reply.
        created: Seconds since 1970.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, *choices: Choice, chunk: bool = False, **fields: Any) -> bytes:
        """JSON of a reply or a chunk; what was not set is not shown."""
        whole = Completion(
            id=self.id,
            object="chat.completion.chunk" if chunk else "chat.completion",
            created=self.created,
            model=self.model,
            choices=list(choices),
            **fields,
        )
        return whole.model_dump_json(exclude_unset=True).encode()


def models_list(name: str, created: int) -> dict[str, Any]:
    """The body of ``/v1/models``."""
    return {"object": "list", "data": [model_card(name, created)]}


def model_card(name: str, created: int) -> dict[str, Any]:
    """What ``/v1/models`` says of a model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "glimp-integrations"}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of every request of the call to both models, as OpenAI's API names them."""
    tokens = token_usage(usage)
    return {
        "prompt_tokens": tokens["prompt_tokens"],
        "completion_tokens": tokens["completion_tokens"],
        "total_tokens": tokens["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": tokens["cached_tokens"]},
        "completion_tokens_details": {"reasoning_tokens": tokens["reasoning_tokens"]},
    }


def summary(result: RoutedAnswer, *, trace: bool = False) -> dict[str, Any]:
    """Who wrote what and what it cost, in a reply's field ``glimp``.

    Args:
        result: The result of the call.
        trace: Whether to add the whole trace.
    """
    own = result.trace
    summed = {
        "large_share": own.large_share,
        "large_step_share": own.large_step_share,
        "steps": len(own.steps),
        "tokens": tokens_by_model(own, result.usage),
        "cost": own.cost,
        "large_alone_cost": own.large_alone_cost,
        "seconds": own.seconds,
        "stop_reason": own.answer_stop or own.stop_reason,
    }
    return plain(summed | ({"trace": record(result)} if trace else {}))  # type: ignore[no-any-return]


def reply_headers(result: RoutedAnswer) -> dict[str, str]:
    """The share of the large model and the cost, as headers of a reply that is not streamed."""
    headers = {"x-glimp-share": f"{result.trace.large_share:.4f}"}
    if result.trace.cost is not None:
        headers["x-glimp-cost"] = f"{result.trace.cost:.8f}"
    return headers


def completion(head: ReplyHead, result: RoutedAnswer, *, trace: bool) -> bytes:
    """The body of a reply that is not streamed."""
    calls, unreadable = _calls(result)
    content = well_formed(result.answer + unreadable)
    message = Message(role="assistant", content=content if content or not calls else None)
    message.refusal = None
    if result.reasoning:
        message.reasoning_content = well_formed(result.reasoning)
    if calls:
        message.tool_calls = calls
    choice = Choice(index=0, message=message, finish_reason=_finish(result), logprobs=None)
    return head.body(choice, usage=usage_of(result.usage), glimp=summary(result, trace=trace))


def _calls(result: RoutedAnswer) -> tuple[list[Call], str]:
    """Calls in the order in which they were written, and the text of those without a name.

    OpenAI's API hands on what a model wrote as arguments, also where it is no JSON: clients check.
    """
    broken = {call.index: call for call in result.invalid_tool_calls}
    valid = iter(result.tool_calls)
    calls, unreadable = [], ""
    for index in range(len(broken) + len(result.tool_calls)):
        invalid = broken.get(index)
        if invalid is None:
            call = next(valid)
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = FunctionCall(name=call.name, arguments=well_formed(arguments))
            calls.append(Call(id=call.id, type="function", function=function))
        elif invalid.name is None:
            unreadable += invalid.text
        else:
            function = FunctionCall(name=invalid.name, arguments=well_formed(invalid.text))
            calls.append(Call(id=invalid.id, type="function", function=function))
    return calls, unreadable


def _finish(result: RoutedAnswer) -> str:
    """Why the reply ended; calls with broken arguments are calls, too."""
    named = any(call.name is not None for call in result.invalid_tool_calls)
    reason = finish_reason(result)
    return "tool_calls" if named and reason == "stop" else reason


class Chunks:
    """Makes the chunks of one stream.

    Args:
        head: What every chunk repeats.
        usage: Whether to end with the tokens.
        trace: Whether to end with the trace.
        steps: Whether each piece says which model wrote it, and each step how it was decided.
    """

    def __init__(
        self, head: ReplyHead, *, usage: bool = False, trace: bool = False, steps: bool = False
    ) -> None:
        self._head = head
        self._usage, self._trace, self._steps = usage, trace, steps
        self._unreadable: set[int] = set()
        self._numbers: dict[int, int] = {}  # of calls, without those that are not readable

        begin, _, end = self._chunk(Message(content=_PLACE)).partition(to_json(_PLACE))
        field, _, begin_text = begin.rpartition(b"content")
        # Most chunks differ in their text only.
        self._around = {
            "answer": (begin, end),
            "reasoning": (field + b"reasoning_content" + begin_text, end),
        }

    def first(self) -> bytes:
        """The chunk that says who speaks."""
        return self._chunk(Message(role="assistant", content=""))

    def of(self, event: Event) -> Iterator[bytes]:
        """The chunks of an event."""
        if isinstance(event, Finished):
            yield from self._last(event.result)
        elif isinstance(event, StepStarted):
            if self._steps:
                step = {
                    "step": event.index,
                    "author": event.author,
                    "entropy": event.entropy,
                    "threshold": event.threshold,
                    "answer": event.is_answer,
                }
                yield self._chunk(Message(content=""), glimp=plain(step))
        elif isinstance(event, ToolCallDelta):
            yield self._call(event)
        # Text whose kind is open comes again when that is known.
        elif isinstance(event, TextDelta | KindResolved) and event.kind is not None:
            yield self._text(event)

    def _text(self, event: TextDelta | KindResolved) -> bytes:
        text = well_formed(event.text)
        if self._steps and isinstance(event, TextDelta):
            name = "reasoning_content" if event.kind == "reasoning" else "content"
            return self._chunk(
                Message.model_validate({name: text}),
                glimp={"step": event.index, "author": event.author},
            )
        begin, end = self._around[event.kind or "answer"]
        return begin + to_json(text) + end

    def _call(self, event: ToolCallDelta) -> bytes:
        begins = event.id is not None
        if begins and event.name is None:
            # Nobody can read it as a call, so it is text.
            self._unreadable.add(event.index)
        if event.index in self._unreadable:
            return self._chunk(Message(content=well_formed(event.arguments)))
        number = self._numbers.setdefault(event.index, len(self._numbers))
        arguments = well_formed(event.arguments)
        if not begins:
            call = Call(index=number, function=FunctionCall(arguments=arguments))
        else:
            function = FunctionCall(name=event.name, arguments=arguments)
            call = Call(index=number, id=event.id, type="function", function=function)
        return self._chunk(Message(tool_calls=[call]))

    def _last(self, result: RoutedAnswer) -> Iterator[bytes]:
        yield self._chunk(
            Message(), finish_reason=_finish(result), glimp=summary(result, trace=self._trace)
        )
        if self._usage:
            yield self._head.body(chunk=True, usage=usage_of(result.usage))

    def _chunk(self, delta: Message, *, finish_reason: str | None = None, **fields: Any) -> bytes:
        choice = Choice(index=0, delta=delta, finish_reason=finish_reason, logprobs=None)
        return self._head.body(choice, chunk=True, **fields)
