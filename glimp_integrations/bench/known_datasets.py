"""The datasets of the paper's table: where they are, their columns, and how they are graded.

Repositories, splits and columns are those that the paper's own code loads (for GPQA, whose file
that code leaves to the reader, those of the authors of GPQA). Revisions are pinned, so that a
figure means the same questions next year.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glimp_integrations.bench.choices import by_letter
from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import by_reference, by_whole_number
from glimp_integrations.bench.tasks import Scorer

__all__ = ["GRADERS", "KNOWN", "Source", "known_source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the questions of a dataset are.

    Attributes:
        path: A repository of the Hugging Face hub, or a local file or folder.
        config: The configuration; ``None``: the only one.
        split: The split, perhaps with a slice (``test[:10]``); ``None``: the only one, or ``test``.
        revision: Branch, tag or commit; ``None``: the newest.
        question: The column of the questions.
        answer: The column of the right answers.
        choices: The columns of the wrong choices; empty: the question is not multiple choice.
        id: The column that names an item; ``None``: ``id`` if there is one, else row numbers.
        format: How the answer is asked for, unless the user says otherwise.
        grader: A name in :data:`GRADERS`.
        rows: The number of questions, for the documentation; ``None``: unknown.
    """

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    question: str = "question"
    answer: str = "answer"
    choices: tuple[str, ...] = ()
    id: str | None = None
    format: str = "boxed"
    grader: str = "reference"
    rows: int | None = None


GRADERS: Mapping[str, Callable[[Format], Scorer]] = {
    "reference": by_reference,
    "whole_number": by_whole_number,
    "letter": by_letter,
}

KNOWN: Mapping[str, Source] = {
    "aime24": Source(
        "HuggingFaceH4/aime_2024",
        split="train",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        question="problem",
        format="card",
        grader="whole_number",
        rows=30,
    ),
    "aime25": Source(
        "math-ai/aime25",
        split="test",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        question="problem",
        format="card",
        grader="whole_number",
        rows=30,
    ),
    "gpqa-diamond": Source(
        "Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        question="Question",
        answer="Correct Answer",
        choices=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        id="Record ID",
        format="letter",
        grader="letter",
        rows=198,
    ),
    "math-500": Source(
        "HuggingFaceH4/MATH-500",
        split="test",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        question="problem",
        id="unique_id",
        format="card",
        rows=500,
    ),
}
"""By the names for ``--task``."""


def known_source(path: str, config: str | None) -> Source | None:
    """What is known of a repository on the hub; ``None``: nothing."""
    return next((s for s in KNOWN.values() if (s.path, s.config) == (path, config)), None)
