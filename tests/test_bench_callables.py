"""Evaluation sets from Python functions as tasks of a bench."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.bench import Grade, Item, Task, load_task


@pytest.fixture
def task_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(made: Any, format: str = "boxed", **options: Any) -> Task:
        module = ModuleType("my_evaluation")
        module.items = lambda: made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_evaluation", module)
        return load_task("my_evaluation:items", format=format, **options)

    return load


def test_an_evaluator_of_a_framework_is_called_inside_a_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "benchmark.md").read_text(
        encoding="utf-8"
    )
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    module = ModuleType("my_eval")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "my_eval", module)
    task = load_task("my_eval:items")
    [item] = task.items
    assert (item.question, item.answer) == ("Capital of France?", "Paris")
    assert task.grade(item, "It is \\boxed{paris}").right
    assert not task.grade(item, "It is \\boxed{Rome}").right
    assert task.grade(item, "paris").right


def test_plain_functions_and_reference_answers(task_of: Any) -> None:
    items = [{"question": "1+1?", "answer": 2}, {"question": "2+2?", "answer": 4}]
    assert task_of(items).grade(Item("1", "1+1?", "2"), "\\boxed{2}").right
    own = task_of((items, lambda item, reply: item.answer in reply), n=1)
    assert len(own.items) == 1 and own.grade(own.items[0], "2!").right
    assert not own.grade(own.items[0], "3!").right


def test_items_may_be_pairs_mappings_and_items(task_of: Any) -> None:
    task = task_of(
        [
            ("1+1?", 2),
            {"question": "2+2?", "answer": 4, "id": "four", "level": "easy"},
            Item("nine", "3*3?", "9"),
        ]
    )
    assert list(task.items) == [
        Item("1", "1+1?", "2"),
        Item("four", "2+2?", "4", {"level": "easy"}),
        Item("nine", "3*3?", "9"),
    ]


def test_a_function_may_grade_in_full(task_of: Any) -> None:
    grade = Grade(0.5, "half", marked=False)
    task = task_of(([("1+1?", None)], lambda item, reply: grade))
    assert task.grade(task.items[0], "2") is grade


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (7, "returned a int; expected items"),
        ([], "holds no questions"),
        ([{"q": "x"}], "item 1 is {'q': 'x'}"),
        ([{"question": "x"}], "no answer, and there is no score"),
        ([(1, 2)], r"item 1 is \(1, 2\)"),
        (([{"question": "x"}], 3), "the score is a int"),
    ],
)
def test_mistakes_are_named(task_of: Any, made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_of(made)


@pytest.mark.parametrize("score", [None, 1.5, "good", float("nan")])
def test_impossible_scores_are_named(task_of: Any, score: Any) -> None:
    task = task_of(([{"question": "x"}], lambda item, reply: score))
    with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
        task.grade(task.items[0], "reply")
