"""Sums and differences of numbers up to 60, in words.

    glimp bench --task benchmarks.word_problems:tuning --n 100 --format short ...
    glimp bench --task benchmarks.word_problems:report --n 200 --format short ...

Questions are drawn at random; the two sets share none.
"""

from __future__ import annotations

import random

from glimp_integrations.bench.tasks import Item

__all__ = ["report", "tuning"]

EACH = 500
TOGETHER = (
    "{name} has {a} marbles and gets {b} more. How many marbles does {name} have now?",
    "A coffee machine costs {a} euros and a kettle costs {b} euros. How much do both cost?",
    "There are {a} people on a bus, and {b} more get on. How many people are on the bus?",
    "{name} read {a} pages on Monday and {b} pages on Tuesday. How many pages is that in all?",
    "A shelf holds {a} red books and {b} blue books. How many books does it hold?",
    "A farmer has {a} hens and buys {b} others. How many hens are there then?",
)
APART = (
    "{name} has {a} marbles and gives away {b}. How many marbles are left?",
    "{name} pays a bill of {b} euros with {a} euros. How much change does {name} get?",
    "There are {a} people on a bus, and {b} of them get off. How many people are still on it?",
    "A book has {a} pages and {name} has read {b} of them. How many pages are left to read?",
    "A rope is {a} metres long, and {b} metres are cut off. How long is the rest, in metres?",
    "{name} is {a} years old, and a cousin is {b}. How many years older is {name}?",
)
NAMES = ("Ada", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo")


def tuning() -> list[Item]:
    """To choose a threshold on."""
    return _items(0)


def report() -> list[Item]:
    """To report on."""
    return _items(1)


def _items(half: int) -> list[Item]:
    dice = random.Random(0)  # noqa: S311 - repeatable, no secret
    asked: dict[str, int] = {}
    while len(asked) < 2 * EACH:
        b, a = sorted((dice.randint(2, 60), dice.randint(2, 60)))
        together = dice.random() < 0.5
        template = dice.choice(TOGETHER if together else APART)
        text = template.format(name=dice.choice(NAMES), a=a, b=b)
        asked.setdefault(text, a + b if together else a - b)
    pairs = list(asked.items())[half::2]
    return [Item(f"problem-{i}", text, str(value)) for i, (text, value) in enumerate(pairs)]
