"""From the name of a task to its questions: a question file, a puzzle family or a function."""

from __future__ import annotations

import os
from pathlib import Path

from glimp_integrations.bench.callables import load_callable
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.gym import load_family
from glimp_integrations.bench.question_files import load_file
from glimp_integrations.bench.tasks import Task
from glimp_integrations.errors import ConfigError

__all__ = ["load_task"]


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
            answers, or ``MODULE:FUNCTION``, a Python function (see
            :mod:`glimp_integrations.bench.callables`).
        n: The number of items; ``None``: 30 of a family, all of a file or function.
        seed: The seed of a family's generator; files and functions are taken in their order.
        format: How the answer is asked for: a name in ``formats.FORMATS``.
        question_column: The column of a file that has the questions.
        answer_column: The column of a file that has the answers.

    Raises:
        ConfigError: There is no such task, or its source cannot be used.
    """
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; give the number of questions, at least 1")
    style = named_format(format)
    kind, _, rest = name.partition(":")
    # os.path: a mixture's name may be longer than a file's, where Path.is_file raises.
    if name.endswith((".jsonl", ".ndjson")) or os.path.isfile(name):
        return load_file(
            Path(name), n=n, style=style, question=question_column, answer=answer_column
        )
    if kind == "rg" or not rest or "=" in rest:
        return load_family(rest if kind == "rg" else name, n=n or 30, seed=seed, style=style)
    return load_callable(name, n=n, style=style)
