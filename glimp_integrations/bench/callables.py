"""Anybody's evaluation set: a Python callable that yields the items, and one that grades.

``MODULE:FUNCTION`` returns either the items, or ``(items, score)``. An item is

- an :class:`Item`,
- a mapping with ``question`` and ``answer`` (or LangChain's ``inputs`` and ``outputs``), or
- an object with ``query`` and ``reference_answer``: an example of a ``Labelled…Dataset`` of
  LlamaIndex, or
- a pair of question and answer.

A LlamaIndex data set may be returned as it is: its ``examples`` or ``qr_pairs`` are taken.

A score is one of

- a function ``(item, reply)`` that returns a number from 0 to 1, a boolean or a :class:`Grade`,
- an object with ``evaluate_strings``: a LangChain string evaluator, or
- an object with ``evaluate``: a LlamaIndex evaluator.

Without a score, replies are graded as those of question files are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from glimp_integrations.bench.formats import Format
from glimp_integrations.bench.grading import Reference
from glimp_integrations.bench.tasks import Grade, Item, Scorer, Task, unique
from glimp_integrations.errors import ConfigError

__all__ = ["as_item", "as_scorer", "load_callable", "task_from"]


def load_callable(name: str, *, n: int | None, style: Format) -> Task:
    """The task a callable makes.

    Raises:
        ConfigError: It cannot be imported, or does not return what is described above.
    """
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the user, as `python -m` would find it
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"task {name!r}: {error}; write MODULE:FUNCTION, where `import MODULE` works here"
        ) from error
    if not callable(function):
        raise ConfigError(f"task {name!r} is a {type(function).__name__}; expected a function")
    made = function()
    has_score = isinstance(made, tuple) and len(made) == 2 and not isinstance(made[1], tuple)
    items, score = made if has_score else (made, None)
    return task_from(name, items, score, n=n, style=style)


def task_from(name: str, items: Any, score: Any = None, *, n: int | None, style: Format) -> Task:
    """A task from items and a score of any kind described above.

    Raises:
        ConfigError: They are of no such kind.
    """
    rows = getattr(items, "examples", getattr(items, "qr_pairs", items))
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise ConfigError(f"task {name!r} returned a {type(items).__name__}; expected items")
    made = [as_item(row, str(number)) for number, row in enumerate(islice(rows, n), 1)]
    scorer = _by_reference(style, made, name) if score is None else as_scorer(score, style)
    return Task(name, unique(made, f"task {name!r}"), style, scorer, {"callable": name})


def as_item(row: Any, name: str) -> Item:
    """An item from whatever describes one; ``name`` is its id where it has none.

    Raises:
        ConfigError: It describes none.
    """
    if isinstance(row, Item):
        return row
    if isinstance(row, Mapping):
        question, answer = _of_mapping(row)
        rest = {k: v for k, v in row.items() if k not in ("question", "answer", "id")}
        name = str(row.get("id", name))
    elif isinstance(row, tuple) and len(row) == 2:
        (question, answer), rest = row, {}
    else:
        question = getattr(row, "query", None)
        answer = getattr(row, "reference_answer", None)
        contexts = getattr(row, "reference_contexts", None)
        rest = {"reference_contexts": list(contexts)} if contexts else {}
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(
            f"item {name} is {_short(row)}; expected an Item, a mapping with 'question' and "
            "'answer', or an object with .query and .reference_answer"
        )
    return Item(name, question, None if answer is None else str(answer), rest)


def _of_mapping(row: Mapping[str, Any]) -> tuple[Any, Any]:
    question, answer = row.get("question"), row.get("answer")
    inputs, outputs = row.get("inputs"), row.get("outputs")
    if question is None and inputs is not None:
        question = _only(inputs)
    if answer is None and outputs is not None:
        answer = _only(outputs)
    return question, answer


def _only(value: Any) -> Any:
    """The text of LangChain's one-field dictionaries."""
    if isinstance(value, Mapping) and len(value) == 1:
        return next(iter(value.values()))
    if isinstance(value, Mapping):
        return value.get("question", value.get("input", value.get("answer", value.get("output"))))
    return value


def as_scorer(score: Any, style: Format) -> Scorer:
    """A scorer from a function or an evaluator.

    Evaluators get the marked answer, or the whole reply where the format has no mark.

    Raises:
        ConfigError: It is neither.
    """
    if hasattr(score, "evaluate_strings"):

        def ask(item: Item, text: str) -> Any:
            wanted = {"prediction": text}
            # An evaluator warns of what it does not look at.
            if getattr(score, "requires_reference", True):
                wanted["reference"] = item.answer or ""
            if getattr(score, "requires_input", True):
                wanted["input"] = item.question
            found = _aside(score.evaluate_strings, **wanted)
            return found.get("score")
    elif hasattr(score, "evaluate"):

        def ask(item: Item, text: str) -> Any:
            found = _aside(
                score.evaluate,
                query=item.question,
                response=text,
                contexts=item.metadata.get("reference_contexts"),
                reference=item.answer,
            )
            # Where an evaluator says passing, its scale (1 to 5, say) is its own affair.
            return found.score if found.passing is None else found.passing
    elif callable(score):
        return lambda item, reply: _grade(score(item, reply), reply, True)
    else:
        raise ConfigError(
            f"the score is a {type(score).__name__}; expected a function (item, reply), or an "
            "evaluator with evaluate_strings (LangChain) or evaluate (LlamaIndex)"
        )

    def scorer(item: Item, reply: str) -> Grade:
        marked = style.find(reply)
        text = reply if marked is None else marked
        return _grade(ask(item, text), text, marked is not None or not style.marks)

    return scorer


def _aside(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call an evaluator in a thread of its own: many run an event loop, and here is one already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, **arguments).result()


def _grade(found: Any, text: str, marked: bool) -> Grade:
    if isinstance(found, Grade):
        return found
    if not isinstance(found, bool | int | float) or not 0.0 <= found <= 1.0:
        raise ConfigError(
            f"the score of a reply is {_short(found)}; expected a number from 0 to 1, or a boolean"
        )
    return Grade(float(found), text, marked)


def _by_reference(style: Format, items: Iterable[Item], name: str) -> Scorer:
    references = {item.id: item.answer for item in items}
    if bare := [key for key, answer in references.items() if answer is None]:
        raise ConfigError(
            f"task {name!r}: item {bare[0]} has no answer, and there is no score to grade by; "
            "return (items, score)"
        )
    return lambda item, reply: Reference(item.answer or "").grade(reply, style)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
