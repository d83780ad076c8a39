"""Evaluation sets and evaluators of both frameworks as tasks of a bench."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.bench import Item, Task, load_task


@pytest.fixture
def task_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(made: Any, format: str = "boxed", **options: Any) -> Task:
        module = ModuleType("my_evaluation")
        module.items = lambda: made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_evaluation", module)
        return load_task("my_evaluation:items", format=format, **options)

    return load


def test_langchain_examples_and_evaluator(task_of: Any) -> None:
    from langchain_classic.evaluation import ExactMatchStringEvaluator

    examples = [
        {"inputs": {"question": "Capital of France?"}, "outputs": {"answer": "Paris"}},
        {"inputs": {"question": "Of Italy?"}, "outputs": {"answer": "Rome"}},
    ]
    task = task_of((examples, ExactMatchStringEvaluator(ignore_case=True)))
    assert [(i.question, i.answer) for i in task.items] == [
        ("Capital of France?", "Paris"),
        ("Of Italy?", "Rome"),
    ]
    assert task.grade(task.items[0], "It is \\boxed{paris}").right
    assert not task.grade(task.items[1], "It is \\boxed{paris}").right
    assert not task.grade(task.items[0], "It is Paris").marked


def test_llamaindex_data_set_and_evaluator(task_of: Any) -> None:
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.evaluation import SemanticSimilarityEvaluator
    from llama_index.core.evaluation.dataset_generation import QueryResponseDataset

    class Letters(BaseEmbedding):
        """Counts letters: equal for equal texts, different for others."""

        def _get_text_embedding(self, text: str) -> list[float]:
            return [1.0 + text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    with pytest.warns(
        DeprecationWarning, match="QueryResponseDataset"
    ):  # its heir is not everywhere
        data = QueryResponseDataset(
            queries={"1": "Capital of France?"}, responses={"1": "The capital is Paris"}
        )
    evaluator = SemanticSimilarityEvaluator(embed_model=Letters(), similarity_threshold=0.999)
    task = task_of((data, evaluator), format="plain")
    assert task.grade(task.items[0], "The capital is Paris").right
    assert task.items == [Item("1", "Capital of France?", "The capital is Paris")]

    class Looping(SemanticSimilarityEvaluator):
        """As several of LlamaIndex's do."""

        def evaluate(self, **given: Any) -> Any:
            return asyncio.run(self.aevaluate(**given))

    task = task_of(
        (data, Looping(embed_model=Letters(), similarity_threshold=0.999)), format="plain"
    )

    async def inside_a_loop() -> list[bool]:  # as a bench grades
        replies = ["The capital is Paris", "zzzzzzzzzzzzzz"]
        return [task.grade(task.items[0], reply).right for reply in replies]

    assert asyncio.run(inside_a_loop()) == [True, False]


def test_labelled_examples_bring_their_contexts(task_of: Any) -> None:
    class Example:
        query, reference_answer, reference_contexts = "Why?", "Because", ("a", "b")

    class Dataset:
        examples = (Example(),)

    seen: list[Any] = []

    class Evaluator:
        def evaluate(self, **given: Any) -> Any:
            seen.append(given)
            return type("Result", (), {"passing": None, "score": 0.5})()

    task = task_of((Dataset(), Evaluator()), format="plain")
    assert task.grade(task.items[0], "So.").score == 0.5
    assert seen == [
        {"query": "Why?", "response": "So.", "contexts": ["a", "b"], "reference": "Because"}
    ]


def test_plain_functions_and_reference_answers(task_of: Any) -> None:
    items = [{"question": "1+1?", "answer": 2}, {"question": "2+2?", "answer": 4}]
    assert task_of(items).grade(Item("1", "1+1?", "2"), "\\boxed{2}").right
    own = task_of((items, lambda item, reply: item.answer in reply), n=1)
    assert len(own.items) == 1 and own.grade(own.items[0], "2!").right
    assert not own.grade(own.items[0], "3!").right


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (7, "returned a int; expected items"),
        ([], "holds no questions"),
        ([{"q": "x"}], "item 1 is {'q': 'x'}"),
        ([{"question": "x"}], "no answer, and there is no score"),
        (([{"question": "x"}], 3), "the score is a int"),
    ],
)
def test_mistakes_are_named(task_of: Any, made: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        task_of(made)


@pytest.mark.parametrize("score", [None, 1.5, "good", float("nan")])
def test_impossible_scores_are_named(task_of: Any, score: Any) -> None:
    task = task_of(([{"question": "x"}], lambda item, reply: score))
    with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
        task.grade(task.items[0], "reply")
