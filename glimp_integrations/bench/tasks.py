"""The questions of a bench, and the grades of replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.errors import ConfigError
from glimp_integrations.strict_json import has_lone_surrogate

__all__ = ["RECOMMENDED", "Grade", "Item", "Scorer", "Task", "unique"]

RECOMMENDED = (
    "gsm_symbolic",
    "chain_sum",
    "calendar_arithmetic",
    "leg_counting",
    "time_intervals",
    "fraction_simplification",
    "simple_equations",
    "number_sequence",
    "letter_counting",
    "coin_flip",
)
"""Families of reasoning-gym that small models solve sometimes, and in several steps."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer.

    Attributes:
        id: Names the item in the results; unique within a task.
        question: The question's text, without any format instruction.
        answer: The reference answer; ``None`` where a scorer needs none.
        metadata: Further data of the source, for its scorer.
    """

    id: str
    question: str
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A fingerprint of question and answer, so that results never mix two item sets."""
        text = json.dumps([self.question, self.answer], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of a reply.

    Attributes:
        score: The verifier's score, from 0 to 1.
        extracted: The answer in the reply; ``None``: there was none.
        marked: Whether it was marked as the format asks.
    """

    score: float
    extracted: str | None = None
    marked: bool = True

    @property
    def right(self) -> bool:
        """Only a full score counts as right."""
        return self.score >= 1.0


Scorer = Callable[[Item, str], Grade]
"""From the item and the whole reply to a grade."""


@dataclass(frozen=True)
class Task:
    """Items, how they are asked, and how replies are graded.

    Attributes:
        name: Shown in results.
        items: The questions, in order.
        format: How the answer is asked for, and where it is looked for.
        scorer: Grades one reply.
        identity: What else distinguishes this task from others (the seed, say), as JSON data.
        notes: Sentences for the user about the loading, such as skipped lines.
    """

    name: str
    items: Sequence[Item]
    format: Format
    scorer: Scorer
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def messages(self, item: Item) -> list[dict[str, str]]:
        """The conversation that asks an item."""
        return self.format.messages(item.question)

    def grade(self, item: Item, reply: str) -> Grade:
        """Grade a reply; see :class:`Grade`."""
        return self.scorer(item, reply)


def unique(items: Sequence[Item], source: str) -> Sequence[Item]:
    """The items, after a check of their ids.

    Raises:
        ConfigError: There are no items, two of them have the same id, or a text of one contains
            half a surrogate pair, which can neither be sent to a model nor stored.
    """
    if not items:
        raise ConfigError(f"{source} holds no questions")
    seen: set[str] = set()
    for item in items:
        for field_name in ("id", "question", "answer"):
            if has_lone_surrogate(getattr(item, field_name) or ""):
                raise ConfigError(
                    f"{source}: the {field_name} of item {item.id!r} contains half a surrogate "
                    r"pair (such as \ud83d alone), which is no character; write the whole character"
                )
        if item.id in seen:
            raise ConfigError(f"{source} has the id {item.id!r} twice; ids name results")
        seen.add(item.id)
    return items
