"""What a routed call tells while it runs. Frozen values; the last one carries the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from glimp_integrations.method.rule import Author
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
        author: Who writes it.
        entropy: H in nats; ``None``: no glimpse was made.
        is_answer: It belongs to an answer of its own.
        decides_call: The small model began a tool call here; what it began was dropped, and the
            large model decides whether to make one.
    """

    index: int
    author: Author
    entropy: float | None
    is_answer: bool
    decides_call: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, as it is generated.

    ``kind`` is ``None`` while it is open whether the text is reasoning or answer (models that
    do not think in tags: the last step is the answer); :class:`KindResolved` tells later.

    Attributes:
        text: The new text.
        index: Number of its step, from 0.
        author: Who wrote it.
        kind: ``"reasoning"``, ``"answer"``, or ``None`` while that is open.
    """

    text: str
    index: int
    author: Author
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class KindResolved:
    """Text that came in deltas of unknown kind now has one. Never overlaps decided deltas.

    Attributes:
        text: The text, as its deltas brought it.
        kind: ``"reasoning"`` or ``"answer"``.
    """

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A tool call of the answer, as it is written.

    Attributes:
        index: Number of the call, from 0.
        id: With the call's first delta only.
        name: Likewise; ``None`` there if the call is too broken to have one.
        arguments: The next part of the arguments' JSON text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended. Its ``kind`` is final only in the :class:`Finished` trace.

    Attributes:
        record: What the step came to.
    """

    record: StepRecord


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event.

    Attributes:
        result: The whole answer with its trace.
    """

    result: RoutedAnswer


Event = StepStarted | TextDelta | KindResolved | ToolCallDelta | StepDone | Finished
"""What a stream yields: any of these, :class:`Finished` last."""
"""What a stream yields: any of these, :class:`Finished` last."""


_TYPES: dict[str, type[Any]] = {
    "step_started": StepStarted,
    "text_delta": TextDelta,
    "settled": KindResolved,
    "tool_call_delta": ToolCallDelta,
    "step_done": StepDone,
    "finished": Finished,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def to_dict(event: Event) -> dict[str, Any]:
    """An event as plain JSON data, for frameworks that carry events as dictionaries.

    Numbers that JSON does not know (an infinite threshold) are text.
    """
    name = _NAMES[type(event)]
    if isinstance(event, StepDone):
        return {"type": name, "record": event.record.model_dump(mode="json")}
    if isinstance(event, Finished):
        return {"type": name, "result": event.result.model_dump(mode="json")}
    return {"type": name, **plain(asdict(event))}


def from_dict(data: dict[str, Any]) -> Event:
    """The event that :func:`to_dict` wrote.

    Raises:
        KeyError: ``data`` has no known ``type``.
    """
    fields = dict(data)
    kind = _TYPES[fields.pop("type")]
    if kind is StepDone:
        return StepDone(StepRecord.model_validate(fields["record"]))
    if kind is Finished:
        return Finished(RoutedAnswer.model_validate(fields["result"]))
    if isinstance(fields.get("entropy"), str):
        fields["entropy"] = float(fields["entropy"])
    event: Event = kind(**fields)
    return event
