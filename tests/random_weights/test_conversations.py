"""Seeded conversations: what has to hold of every reply holds, by every strategy, on both engines.

A case that fails is repeated by its number alone: ``check_all(models, case(NUMBER))``.
"""

from __future__ import annotations

from collections import Counter

import pytest

from glimp_integrations import RoutedAnswer
from random_weights.conversations import case
from random_weights.pairs import Models
from random_weights.properties import check_all

pytestmark = pytest.mark.bundled  # the vocabulary is read out of a bundled model's file


def answers(models: Models, numbers: range) -> list[RoutedAnswer]:
    found = []
    for number in numbers:
        try:
            found.append(check_all(models, case(number)))
        except Exception as error:
            error.add_note(f"in case({number})")
            raise
    return found


def ends(results: list[RoutedAnswer]) -> Counter[tuple[str, str | None]]:
    """How many steps of each kind ended how."""
    return Counter((step.kind, step.end) for r in results for step in r.trace.steps)


def test_thirty_conversations_on_llama_cpp(llamacpp: Models) -> None:
    found = ends(answers(llamacpp, range(30)))
    for seen in [
        ("reasoning", "delimiter"),
        ("reasoning", "length"),
        ("reasoning", "think_end"),
        ("answer", "think_end"),
        ("answer", "length"),
    ]:
        assert found[seen], seen


def test_ten_conversations_on_transformers(transformers: Models) -> None:
    assert ends(answers(transformers, range(10)))["reasoning", "delimiter"]


@pytest.mark.slow  # the two tests above are a part of it
@pytest.mark.timeout(3600)
def test_three_hundred_conversations(llamacpp: Models, transformers: Models) -> None:
    results = answers(llamacpp, range(200)) + answers(transformers, range(200, 300))
    print(f"\n{ends(results)}\n{Counter(r.trace.stop_reason for r in results)}")
    print(f"{sum(len(r.tool_calls) for r in results)} calls")
    assert any(r.tool_calls for r in results)
