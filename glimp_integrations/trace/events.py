"""Events of a call while it runs. Frozen values; the last one carries the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from glimp_integrations.method.policy import Author
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.records import StepRecord
from glimp_integrations.trace.trace import RoutedAnswer

__all__ = [
    "Event",
    "Finished",
    "KindResolved",
    "StepDone",
    "StepStarted",
    "TextDelta",
    "ToolCallDelta",
    "from_dict",
    "to_dict",
]

Kind = Literal["reasoning", "answer"]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins.

    Attributes:
        index: Number of the step, from 0.
        author: The model that writes it.
        entropy: H in nats; ``None``: no glimpse was made.
        is_answer: Whether it belongs to a separate answer.
        decides_call: Whether the small model began a tool call here: its text was dropped, and the
            large model decides whether to make a call.
        threshold: The bound on H that was in force, in nats; ``None``: the policy does not go by
            H, or the step was not a policy's to decide.
        reason: Why this model writes it, in words.
    """

    index: int
    author: Author
    entropy: float | None
    is_answer: bool
    decides_call: bool = False
    threshold: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, as it is generated.

    Attributes:
        text: The text.
        index: Number of its step, from 0.
        author: The model that wrote it.
        kind: ``None`` while it is undecided whether the text is reasoning or answer (models without
            think tags: the last step is the answer); a :class:`KindResolved` follows.
    """

    text: str
    index: int
    author: Author
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class KindResolved:
    """The kind of text whose deltas had none.

    Attributes:
        text: The text of one or more such deltas; never text of deltas that had a kind.
        kind: Its kind.
    """

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call of the answer, as it is written.

    Attributes:
        index: Number of the call, from 0.
        id: Identifies the call; with its first delta only, then ``None``.
        name: Name of the tool; with the first delta only, and ``None`` even there if the call is
            too broken to have one.
        arguments: The next part of the arguments' JSON text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended.

    Attributes:
        record: Its record. ``record.kind`` is final only in the trace of :class:`Finished`.
    """

    record: StepRecord


@dataclass(frozen=True, slots=True)
class Finished:
    """The call is over; the last event.

    Attributes:
        result: The answer, with its trace.
    """

    result: RoutedAnswer


Event = StepStarted | TextDelta | KindResolved | ToolCallDelta | StepDone | Finished
"""What a stream yields: any of these, :class:`Finished` last."""
"""What a stream yields: any of these, :class:`Finished` last."""


_TYPES: dict[str, type[Any]] = {
    "step_started": StepStarted,
    "text_delta": TextDelta,
    "kind_resolved": KindResolved,
    "tool_call_delta": ToolCallDelta,
    "step_done": StepDone,
    "finished": Finished,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def to_dict(event: Event) -> dict[str, Any]:
    """An event as plain JSON data, for frameworks that carry events as dictionaries.

    Infinite numbers, which JSON does not have, become text.
    """
    name = _NAMES[type(event)]
    if isinstance(event, StepDone):
        return {"type": name, "record": event.record.model_dump(mode="json")}
    if isinstance(event, Finished):
        return {"type": name, "result": event.result.model_dump(mode="json")}
    return {"type": name, **plain(asdict(event))}


def from_dict(data: dict[str, Any]) -> Event:
    """The event of which :func:`to_dict` made ``data``.

    Raises:
        KeyError: ``data`` has no ``type`` of an event.
    """
    fields = dict(data)
    kind = _TYPES[fields.pop("type")]
    if kind is StepDone:
        return StepDone(StepRecord.model_validate(fields["record"]))
    if kind is Finished:
        return Finished(RoutedAnswer.model_validate(fields["result"]))
    for name in ("entropy", "threshold"):
        if isinstance(fields.get(name), str):
            fields[name] = float(fields[name])
    event: Event = kind(**fields)
    return event
