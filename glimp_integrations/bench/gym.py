"""Families of reasoning-gym as tasks: freshly generated questions and their own verifiers."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import Reference, is_number
from glimp_integrations.bench.known_datasets import KNOWN
from glimp_integrations.bench.options import read_options
from glimp_integrations.bench.tasks import RECOMMENDED, Grade, Item, Task
from glimp_integrations.errors import ConfigError

__all__ = ["load_family"]


def load_family(name: str, *, n: int, seed: int, style: Format) -> Task:
    r"""``n`` questions of a family, ``NAME`` or ``NAME:OPTION=VALUE,...``.

    Options are the fields of the family's configuration in reasoning-gym, which set how hard its
    questions are (``chain_sum:max_terms=3,max_digits=2``); values are read as JSON where they can.

    The verifier is the family's ``score_answer``, which gets the marked answer. Where the
    reference is a number, math-verify looks for it, too (in ``\boxed{\$1,234}``, or in a reply
    without a mark), and the better of the two grades counts.

    Raises:
        ConfigError: reasoning-gym is missing, has no such family or option, or cannot make these
            questions.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} needs reasoning-gym: pip install 'glimp-integrations[bench]'"
        ) from error
    family, _, text = name.partition(":")
    options = read_options(f"task {name!r}", text)
    if family not in DATASETS:
        near = difflib.get_close_matches(family, [*KNOWN, *DATASETS], 3) or RECOMMENDED[:6]
        raise ConfigError(
            f"no task {family!r}: neither a file, nor MODULE:FUNCTION, nor a dataset "
            f"({', '.join(KNOWN)}, hf:NAME), nor a family of reasoning-gym; did you mean "
            f"{', '.join(near)}?"
        )
    fields = {field.name for field in dataclasses.fields(DATASETS[family][1])} - {"seed", "size"}
    if wrong := sorted(set(options) - fields):
        raise ConfigError(
            f"task {name!r}: {family} has no option {', '.join(wrong)}; it has "
            f"{', '.join(sorted(fields)) or 'none'}"
        )
    try:
        if "datasets" in options:  # of `composite`, a mixture of families
            from reasoning_gym.composite import DatasetSpec

            options["datasets"] = [
                DatasetSpec(**{"weight": 1, "config": {}, **part}) for part in options["datasets"]
            ]
        dataset = reasoning_gym.create_dataset(family, size=n, seed=seed, **options)
        entries = [dataset[index] for index in range(n)]
    except Exception as error:
        raise ConfigError(
            f"reasoning-gym cannot make {n} questions of {name!r} with seed {seed}: "
            f"{type(error).__name__}: {error}"
        ) from error
    items = [_item(f"{name}-{seed}-{i}", entry) for i, entry in enumerate(entries)]
    by_id = {item.id: entry for item, entry in zip(items, entries, strict=True)}

    def score(item: Item, reply: str) -> Grade:
        return _score(dataset, by_id[item.id], reply, style)

    identity = {"family": name, "seed": seed, "reasoning_gym": version("reasoning-gym")}
    return Task(_title(family, options) or name, items, style, score, identity)


def _title(family: str, options: Mapping[str, Any]) -> str | None:
    """A readable name for a mixture; ``None`` for other tasks, which are called as typed."""
    if family != "composite":
        return None
    parts = []
    for part in options["datasets"]:
        config = ",".join(f"{key}={json.dumps(value)}" for key, value in part.config.items())
        parts.append(f"{part.weight:g} {part.name}({config})")
    return " + ".join(parts)


def _item(name: str, entry: dict[str, Any]) -> Item:
    # Metadata may hold any object; what JSON has no type for becomes text.
    metadata = json.loads(json.dumps(entry.get("metadata") or {}, default=str))
    answer = entry["answer"]
    return Item(name, entry["question"], None if answer is None else str(answer), metadata)


def _score(dataset: Any, entry: dict[str, Any], reply: str, style: Format) -> Grade:
    marked = style.find(reply)
    candidate = reply.strip() if marked is None and not style.marks else marked
    try:
        score = float(dataset.score_answer(candidate, entry))
    except Exception:  # a family's verifier may fail on a reply it does not expect
        score = 0.0
    grade = Grade(score, candidate, marked is not None or not style.marks)
    answer = str(entry["answer"] or "")
    if not grade.right and is_number(answer):
        other = Reference(answer).grade(reply, style)
        if other.right or marked is None:
            return Grade(max(score, other.score), other.extracted, grade.marked)
    return grade
