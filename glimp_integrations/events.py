"""What a routed call tells while it runs. Frozen values; the last one carries the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimp_integrations.trace import Author, RoutedAnswer, StepRecord

__all__ = ["Event", "Finished", "Settled", "StepDone", "StepStarted", "TextDelta"]

Kind = Literal["reasoning", "answer"]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins. ``entropy`` is H in nats, ``None`` when no glimpse was made."""

    index: int
    author: Author
    entropy: float | None
    is_answer: bool


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, as it is generated.

    ``kind`` is ``None`` while it is open whether the text is reasoning or answer (models that
    do not think in tags: the last step is the answer); :class:`Settled` tells later.
    """

    text: str
    index: int
    author: Author
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Text that came in deltas of unknown kind now has one. Never overlaps decided deltas."""

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended. Its ``kind`` is final only in the :class:`Finished` trace."""

    record: StepRecord


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    result: RoutedAnswer


Event = StepStarted | TextDelta | Settled | StepDone | Finished
