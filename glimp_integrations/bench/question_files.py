"""A JSON-lines file of questions and answers as a task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import by_reference
from glimp_integrations.bench.tasks import Item, Task, unique
from glimp_integrations.errors import ConfigError

__all__ = [
    "LONGEST_LINE",
    "answer_of",
    "cell_of",
    "filled_lines",
    "load_file",
    "question_of",
    "row_of",
]

LONGEST_LINE = 2_000_000
"""In bytes. A question must fit a context window; a longer line means another kind of file."""


def load_file(path: Path, *, n: int | None, style: Format, question: str, answer: str) -> Task:
    """A task with one item for every line; its id is the line's ``id`` or number.

    Blank lines are skipped.

    An answer is graded by math-verify where it is mathematics, else it has to be equal after
    normalisation (see :mod:`glimp_integrations.bench.grading`).

    Raises:
        ConfigError: The file, a line or a column cannot be used; the message says which and why.
    """
    if not path.is_file():
        raise ConfigError(f"no question file at {path}")
    items: list[Item] = []
    notes: list[str] = []
    for number, line in filled_lines(path, n, notes):
        items.append(_item(row_of(line, path, number), path, number, question, answer))
    if n is not None and len(items) < n:
        notes.append(f"{path.name}: {len(items)} questions, fewer than the {n} asked for")
    identity = {"file": path.name, "question": question, "answer": answer}
    return Task(path.stem, unique(items, str(path)), style, by_reference(style), identity, notes)


def filled_lines(path: Path, n: int | None, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    """The first ``n`` lines of a file that are not blank, with their numbers.

    Args:
        path: The file.
        n: ``None``: all of them.
        notes: Gets a sentence about the blank lines, if there are any.

    Raises:
        ConfigError: A line is too long for a question.
    """
    blank = filled = 0
    for number, line in _lines_of(path):
        if filled == n:
            break
        if line.strip():
            filled += 1
            yield number, line
        else:
            blank += 1
    if blank:
        notes.append(f"{path.name}: {blank} blank line{'s' * (blank != 1)} skipped")


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """All lines of a file with their numbers.

    Raises:
        ConfigError: A line is too long for a question, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise ConfigError(
                        f"{path}, line {number} is longer than {LONGEST_LINE:,} bytes; a question "
                        "file has one JSON object a line"
                    )
                # A byte order mark is not part of the first line.
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; give yourself access to it, or name "
            "another file"
        ) from error


def row_of(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ConfigError: The line is not one.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(
            f"{path}, line {number} is a JSON {type(row).__name__}; expected an object with "
            "a question and an answer"
        )
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}, line {number} has half of a character (an escape such as \\ud83d without its "
            "other half), which can neither be sent to a model nor stored; repair that text"
        ) from None
    return row


def cell_of(row: dict[str, Any], column: str, option: str, path: Path, number: int) -> Any:
    """The value of a column in one line.

    Raises:
        ConfigError: It has no such column.
    """
    if column not in row:
        raise ConfigError(
            f"{path}, line {number} has no column {column!r} but "
            f"{', '.join(repr(name) for name in row) or 'none'}; name it with {option}"
        )
    return row[column]


def _item(row: dict[str, Any], path: Path, number: int, question: str, answer: str) -> Item:
    text = cell_of(row, question, "--question-column", path, number)
    expected = cell_of(row, answer, "--answer-column", path, number)
    place = f"{path}, line {number}"
    rest = {key: value for key, value in row.items() if key not in (question, answer)}
    return Item(
        str(row.get("id", number)),
        question_of(text, question, place),
        answer_of(expected, answer, place),
        rest,
    )


def question_of(value: Any, column: str, place: str) -> str:
    """A question as it stands in a column.

    Args:
        value: The cell.
        column: Its column, for an error.
        place: The file and the line, for an error.

    Raises:
        ConfigError: It is no text, or blank.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place}: {column!r} is {value!r}; expected a text")
    return value


def answer_of(value: Any, column: str, place: str) -> str:
    """A reference answer as it stands in a column, as text; arguments as above.

    Raises:
        ConfigError: It is neither a text nor a number, or blank.
    """
    is_finite = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not is_finite:
        raise ConfigError(f"{place}: {column!r} is {value!r}; expected a text or a number")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{place}: {column!r} is blank; there is nothing to grade")
    return str(value)
