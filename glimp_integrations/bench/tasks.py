"""What is asked, and how a reply is graded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimp_integrations.bench.formats import Format, named_format
from glimp_integrations.errors import ConfigError

__all__ = ["RECOMMENDED", "Grade", "Item", "Scorer", "Task", "load_task"]

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
        id: Its name in the results; unique within a task.
        question: The question's text, without any format instruction.
        answer: The reference answer; ``None`` where a callable alone knows what is right.
        metadata: Whatever the source knows besides, for its scorer.
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
    """What a reply was worth.

    Attributes:
        score: 0 to 1, as the verifier gave it.
        extracted: The answer found in the reply; ``None``: none was found.
        marked: Whether it stood where the format asks for it.
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
        identity: What else makes this task another one (seed, file contents); JSON data.
        notes: What was noticed while loading, such as skipped lines; shown to the user.
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


def load_task(
    name: str,
    *,
    n: int | None = None,
    seed: int = 7,
    format: str = "boxed",
    question_column: str = "question",
    answer_column: str = "answer",
) -> Task:
    """A task from its name.

    Args:
        name: A family of reasoning-gym (``gsm_symbolic``, or ``rg:NAME``), perhaps with its
            options (``chain_sum:max_terms=3,max_digits=2``), a ``.jsonl`` file of questions and
            answers, or ``MODULE:FUNCTION``, a Python callable (see
            :mod:`glimp_integrations.bench.callables`).
        n: So many items; ``None``: 30 of a family, all of a file or callable.
        seed: Of the family's generator; files and callables are taken in their order.
        format: How the answer is asked for: a name of ``formats.FORMATS``.
        question_column: Of a file.
        answer_column: Of a file.

    Raises:
        ConfigError: There is no such task, or its source cannot be used.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; give the number of questions, at least 1")
    style = named_format(format)
    kind, _, rest = name.partition(":")
    # os.path: a mixture's name may be longer than a file's, where Path.is_file raises.
    if name.endswith((".jsonl", ".ndjson")) or os.path.isfile(name):
        from glimp_integrations.bench.question_files import load_file

        return load_file(
            Path(name), n=n, style=style, question=question_column, answer=answer_column
        )
    if kind == "rg" or not rest or "=" in rest:
        from glimp_integrations.bench.gym import load_family

        return load_family(rest if kind == "rg" else name, n=n or 30, seed=seed, style=style)
    from glimp_integrations.bench.callables import load_callable

    return load_callable(name, n=n, style=style)


def unique(items: Sequence[Item], source: str) -> Sequence[Item]:
    """The items, after a look at their ids.

    Raises:
        ConfigError: There are none, or an id comes twice.
    """
    if not items:
        raise ConfigError(f"{source} holds no questions")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"{source} has the id {item.id!r} twice; ids name results")
        seen.add(item.id)
    return items
