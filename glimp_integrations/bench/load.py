"""From a task's name to its questions: a file, a dataset, a puzzle family or a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from glimp_integrations.bench.callables import load_callable
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.gym import load_family
from glimp_integrations.bench.hub_datasets import (
    is_dataset,
    load_dataset_task,
    source_of,
    with_options,
)
from glimp_integrations.bench.question_files import load_file
from glimp_integrations.bench.tasks import Task
from glimp_integrations.errors import ConfigError

__all__ = ["load_task"]


def load_task(
    name: str,
    *,
    n: int | None = None,
    seed: int = 7,
    format: str | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    choice_columns: Sequence[str] = (),
    split: str | None = None,
    revision: str | None = None,
) -> Task:
    """A task from its name.

    Args:
        name: A family of reasoning-gym (``gsm_symbolic``, or ``rg:NAME``), perhaps with its
            options (``chain_sum:max_terms=3,max_digits=2``), a ``.jsonl`` file of questions and
            answers, a dataset (``hf:NAME[:CONFIG]``, ``hf:FOLDER``, or ``aime24``, ``aime25``,
            ``gpqa-diamond``, ``math-500``, each perhaps with ``:FOLDER``), or
            ``MODULE:FUNCTION``, a Python function (see
            :mod:`glimp_integrations.bench.callables`).
        n: The number of items; ``None``: 30 of a family, all of a file, dataset or function.
        seed: The seed of a family's generator; all other items are taken in their order.
        format: How the answer is asked for: a name in ``formats.FORMATS``. ``None``: as a known
            dataset needs it, else ``boxed``.
        question_column: The column of a file or dataset that has the questions; ``None``:
            ``question``, or the one of a known dataset.
        answer_column: The column that has the answers; ``None``: likewise, ``answer``.
        choice_columns: The columns of a dataset that have the wrong choices, where questions are
            multiple choice.
        split: The split of a dataset; ``None``: the one of a known dataset, the only one or
            ``test``.
        revision: The revision of a dataset on the hub; ``None``: the one pinned for a known
            dataset, else the newest.

    Raises:
        ConfigError: There is no such task, or its source cannot be used.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; give the number of questions, at least 1")
    if is_dataset(name):
        source = with_options(
            source_of(name),
            question_column=question_column,
            answer_column=answer_column,
            choice_columns=choice_columns,
            split=split,
            revision=revision,
        )
        return load_dataset_task(name, source, n=n, format=format)
    for option, value in {
        "choice_columns": choice_columns,
        "split": split,
        "revision": revision,
    }.items():
        if value:
            raise ConfigError(
                f"{option} is {value!r}, but task {name!r} is no dataset; name one as hf:NAME, or "
                "leave it out"
            )
    style = named_format(format or "boxed")
    kind, _, rest = name.partition(":")
    # os.path: a mixture's name may be longer than a file's, where Path.is_file raises.
    if name.endswith((".jsonl", ".ndjson")) or os.path.isfile(name):
        question, answer = question_column or "question", answer_column or "answer"
        return load_file(Path(name), n=n, style=style, question=question, answer=answer)
    if kind == "rg" or not rest or "=" in rest:
        return load_family(rest if kind == "rg" else name, n=n or 30, seed=seed, style=style)
    return load_callable(name, n=n, style=style)
