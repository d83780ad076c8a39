"""A dataset of the Hugging Face hub, or local files of the same shape, as a task.

Reading is the library ``datasets``. It only reads data (JSON, Parquet, CSV, ...): programs that a
repository brings along are never run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from glimp_integrations.bench.choices import choice_item
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.grading import whole_number
from glimp_integrations.bench.known_datasets import GRADERS, KNOWN, Source, known_source
from glimp_integrations.bench.question_files import answer_of, question_of
from glimp_integrations.bench.tasks import Item, Task, unique
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import hide, proxy_secrets
from glimp_integrations.weights.download import is_offline

__all__ = ["is_dataset", "load_dataset_task", "source_of", "with_options"]

_READERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_READERS |= {".csv": "csv", ".tsv": "csv"}


def is_dataset(name: str) -> bool:
    """Whether a task's name is that of a dataset: ``hf:...``, or one of the known names."""
    head, _, _ = name.partition(":")
    return head == "hf" or head in KNOWN


def source_of(name: str) -> Source:
    """The source that a task's name stands for.

    Args:
        name: A known name (``aime24``), perhaps with the place of a copy (``aime24:FOLDER``), or
            ``hf:DATASET[:CONFIG]``, where DATASET is a repository of the hub, a file or a folder.

    Raises:
        ConfigError: Nothing is named, or a local path that does not exist.
    """
    head, _, rest = name.partition(":")
    if head in KNOWN and not rest:
        return KNOWN[head]
    if not rest.strip():
        raise ConfigError(
            "task 'hf:' names no dataset; write hf:OWNER/NAME[:CONFIG], hf:FOLDER or hf:FILE"
        )
    local = os.path.expanduser(rest)
    if head in KNOWN:
        source = replace(KNOWN[head], path=local, config=None, split=None, revision=None)
    elif os.path.exists(local):
        return Source(local)
    else:
        path, _, config = rest.partition(":")
        found = known_source(path, config or None)
        source = found or Source(os.path.expanduser(path), config or None)
        is_place = path.startswith((".", "/", "~")) or path.count("/") > 1
        if not is_place and Path(path).suffix.lower() not in _READERS:
            return source
    if not os.path.exists(source.path):
        raise ConfigError(
            f"task {name!r}: there is no file or folder {source.path}; a dataset of the hub is "
            "hf:OWNER/NAME[:CONFIG]"
        )
    return source


def load_dataset_task(name: str, source: Source, *, n: int | None, format: str | None) -> Task:
    """The questions of a dataset, in its order.

    Args:
        name: The task's name, as typed.
        source: Where they are.
        n: The largest number of them; ``None``: all.
        format: How the answer is asked for; ``None``: as the source says.

    Raises:
        ConfigError: The library is missing, or the dataset, its split, a column or a row cannot be
            used; the message says which, and what to do.
    """
    style = named_format(format or source.format)
    table = _read(name, source)
    for column, option in _wanted(source):
        if column not in table.column_names:
            raise ConfigError(
                f"task {name!r} has no column {column!r} but "
                f"{', '.join(map(repr, table.column_names)) or 'none'}; name it with {option}"
            )
    notes = []
    if n is not None and len(table) < n:
        notes.append(f"{name}: {len(table)} questions, fewer than the {n} asked for")
    rows = table.select(range(min(n or len(table), len(table))))
    items = [_item(row, number, name, source) for number, row in enumerate(rows, 1)]
    identity = {
        "dataset": Path(source.path).name if os.path.exists(source.path) else source.path,
        "config": source.config,
        "split": source.split,
        "revision": source.revision,
        "columns": [source.question, source.answer, *source.choices],
        "grader": source.grader,
    }
    scorer = GRADERS[source.grader](style)
    return Task(_title(name), unique(items, f"task {name!r}"), style, scorer, identity, notes)


def _title(name: str) -> str:
    """A task's name without the folders of a local copy, which say nothing to a reader."""
    head, _, rest = name.partition(":")
    if rest and os.path.exists(os.path.expanduser(rest)):
        return f"{head}:{Path(rest).resolve().name}"
    return name


def _wanted(source: Source) -> list[tuple[str, str]]:
    columns = [(source.question, "--question-column"), (source.answer, "--answer-column")]
    return columns + [(column, "--choice-columns") for column in source.choices]


def _item(row: dict[str, Any], number: int, name: str, source: Source) -> Item:
    place = f"task {name!r}, row {number}"
    column = source.id or "id"
    given = row.get(column)
    item_id = str(number) if given is None else str(given)
    question = question_of(row[source.question], source.question, place)
    answer = answer_of(row[source.answer], source.answer, place)
    if source.choices:
        wrong = [answer_of(row[column], column, place) for column in source.choices]
        return choice_item(item_id, question, answer, wrong, place)
    if source.grader == "whole_number" and whole_number(answer) is None:
        raise ConfigError(
            f"{place}: {source.answer!r} is {answer!r}; expected a whole number, as all answers "
            "of the AIME are. Name another column with --answer-column"
        )
    used = {source.question, source.answer, column}
    return Item(item_id, question, answer, {k: v for k, v in row.items() if k not in used})


def _read(name: str, source: Source) -> Any:
    """The rows of the split that is asked for."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} needs datasets: pip install 'glimp-integrations[bench]'"
        ) from error
    reader = _READERS.get(Path(source.path).suffix.lower()) if os.path.isfile(source.path) else None
    if reader is None:
        place: dict[str, Any] = {"path": source.path, "name": source.config}
        place["revision"] = source.revision
    else:
        place = {"path": reader, "data_files": source.path}
        if source.path.lower().endswith(".tsv"):
            place["sep"] = "\t"
    try:
        with _quietly(datasets):
            found = datasets.load_dataset(**place, split=source.split)
    except Exception as error:  # of many kinds: of the library, of the hub's client, of the network
        raise ConfigError(f"task {name!r}: {_problem(error, source)}") from error
    rows = _only_split(found, name) if isinstance(found, dict) else found
    _check_commit(rows, name, source)
    return rows


def _check_commit(rows: Any, name: str, source: Source) -> None:
    """Without a network the library takes whatever it has in its cache, also of another commit."""
    if not re.fullmatch("[0-9a-f]{40}", source.revision or ""):
        return
    files = [Path(file["filename"]) for file in rows.cache_files]
    if others := [file.parent.name for file in files if source.revision not in file.parts]:
        raise ConfigError(
            f"task {name!r}: the cache of datasets has commit {others[0]} of {source.path}, not "
            f"{source.revision}, and the hub is out of reach. Load it once with a network, or take "
            f"the other one with --revision {others[0]}"
        )


def _only_split(splits: dict[str, Any], name: str) -> Any:
    if len(splits) == 1:
        return next(iter(splits.values()))
    if "test" in splits:
        return splits["test"]
    raise ConfigError(f"task {name!r} has the splits {', '.join(splits)}; choose one with --split")


@contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Without progress bars, which a few kilobytes need not, and without a network if it is off."""
    bars = datasets.are_progress_bars_disabled()
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = was_offline or is_offline()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        if not bars:
            datasets.enable_progress_bars()


def _problem(error: BaseException, source: Source) -> str:
    """What is wrong, in a sentence of the library, and what to do about it."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # it says no more than that there was an error
    text = " ".join(hide(str(error), proxy_secrets()).split())
    said = f"{type(error).__name__}: {text[:400].rstrip('.') or 'no more is said'}"
    page = f"https://huggingface.co/datasets/{source.path}"
    if "gated" in text.lower():
        return (
            f"{source.path} is gated. Accept its terms at {page}, make a token that may read it, "
            "and set HF_TOKEN to it (or run `hf auth login`)"
        )
    if "scripts are no longer supported" in text:
        return (
            f"{source.path} needs a program of its own to be read, and glimp runs none. Try "
            "--revision refs/convert/parquet, where the hub keeps plain copies"
        )
    if found := re.search(r"Unknown split \"(.*?)\"\. Should be one of \[(.*?)\]", text):
        return f"there is no split {found[1]!r} but {found[2]}; choose one with --split"
    if "corresponds to no data" in text:
        return f"{source.path} holds no questions; look at its files, or choose another --split"
    if "config" in text.lower() and isinstance(error, ValueError):
        return f"{said}. Name one as hf:{source.path}:CONFIG"
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        where = "GLIMP_OFFLINE is set" if is_offline() else "the hub is out of reach"
        return (
            f"{where}, and {source.path} is not in the cache of datasets ({said}). Load it once "
            "with a network, or copy its files and name their folder: hf:FOLDER, aime24:FOLDER"
        )
    if text.startswith("Revision"):
        return f"{said}. Choose another --revision; the commits are listed at {page}/commits"
    if "doesn't exist" in text or "cannot be accessed" in text:
        return (
            f"{said}. Check the name at https://huggingface.co/datasets; a private one needs "
            "HF_TOKEN"
        )
    return f"{said}. Look at its files; JSON, Parquet and CSV with one row a question can be read"


def with_options(
    source: Source,
    *,
    question_column: str | None,
    answer_column: str | None,
    choice_columns: Sequence[str],
    split: str | None,
    revision: str | None,
) -> Source:
    """A source with what the user said about it."""
    changed = replace(
        source,
        question=question_column or source.question,
        answer=answer_column or source.answer,
        choices=tuple(choice_columns) or source.choices,
        split=split or source.split,
        revision=revision or source.revision,
    )
    if choice_columns and not source.choices:
        return replace(changed, format="letter", grader="letter")
    return changed
