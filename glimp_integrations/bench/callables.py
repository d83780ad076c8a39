"""An evaluation set of your own: a Python function that returns the items, or ``(items, score)``.

An item is

- an :class:`Item`,
- a mapping with ``question`` and ``answer``, perhaps ``id``; further keys become its metadata, or
- a pair of question and answer.

A score is a function ``(item, reply)`` that returns a number from 0 to 1, a boolean or a
:class:`Grade`. Without a score, replies are graded like those of question files. An evaluator of a
framework is called inside such a function; ``docs/bench.md`` has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import by_reference
from glimp_integrations.bench.imports import imported
from glimp_integrations.bench.tasks import Grade, Item, Scorer, Task, unique
from glimp_integrations.errors import ConfigError
from glimp_integrations.unicode_text import shortened

__all__ = ["load_callable"]


def load_callable(name: str, *, n: int | None, style: Format) -> Task:
    """The task that a function makes.

    Args:
        name: ``MODULE:FUNCTION``.
        n: The largest number of items; ``None``: all of them.
        style: How the answer is asked for.

    Raises:
        ConfigError: It cannot be imported, or does not return what is described above.
    """
    function = imported(f"task {name!r}", name, "MODULE:FUNCTION")
    if not callable(function):
        raise ConfigError(f"task {name!r} is a {type(function).__name__}; expected a function")
    value = function()
    has_score = isinstance(value, tuple) and len(value) == 2 and not isinstance(value[1], tuple)
    rows, score = value if has_score else (value, None)
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise ConfigError(f"task {name!r} returned a {type(rows).__name__}; expected items")
    items = [_item(row, str(number)) for number, row in enumerate(islice(rows, n), 1)]
    scorer = _by_answers(style, items, name) if score is None else _by_function(score)
    return Task(name, unique(items, f"task {name!r}"), style, scorer, {"callable": name})


def _item(row: Any, name: str) -> Item:
    """An item from one row; ``name`` is its id where the row has none."""
    if isinstance(row, Item):
        return row
    question = answer = None
    metadata: dict[str, Any] = {}
    if isinstance(row, Mapping):
        question, answer = row.get("question"), row.get("answer")
        metadata = {k: v for k, v in row.items() if k not in ("question", "answer", "id")}
        name = str(row.get("id", name))
    elif isinstance(row, tuple) and len(row) == 2:
        question, answer = row
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(
            f"item {name} is {_short(row)}; expected an Item, a mapping with 'question' and "
            "'answer', or a pair of them"
        )
    return Item(name, question, None if answer is None else str(answer), metadata)


def _by_function(score: Callable[[Item, str], Any]) -> Scorer:
    if not callable(score):
        raise ConfigError(
            f"the score is a {type(score).__name__}; expected a function (item, reply)"
        )

    def scorer(item: Item, reply: str) -> Grade:
        value = score(item, reply)
        if isinstance(value, Grade):
            return value
        if not isinstance(value, bool | int | float) or not 0.0 <= value <= 1.0:
            raise ConfigError(
                f"the score of a reply is {_short(value)}; expected a number from 0 to 1, or a "
                "boolean"
            )
        return Grade(float(value), reply)

    return scorer


def _by_answers(style: Format, items: Iterable[Item], name: str) -> Scorer:
    for item in items:
        if item.answer is None:
            raise ConfigError(
                f"task {name!r}: item {item.id} has no answer, and there is no score to grade by; "
                "return (items, score)"
            )
    return by_reference(style)


def _short(value: Any) -> str:
    return shortened(repr(value), 120)
