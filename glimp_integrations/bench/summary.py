"""From the stored lines of a bench to the figures of each arm and the comparisons of arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from glimp_integrations.bench.figures import Answer, ArmFigures, Comparison
from glimp_integrations.bench.records import Place, place_of
from glimp_integrations.bench.stats import (
    Interval,
    compare_repeated,
    compare_right,
    pass_rate,
    ratio,
)
from glimp_integrations.bench.store import Store
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.speed import PairSpeed, median
from glimp_integrations.settings import Price, Prices
from glimp_integrations.trace.files import first_complaint
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import Trace

__all__ = ["Answer", "ArmFigures", "Comparison", "Summary", "parse_prices", "summarise"]

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """All figures of a bench folder."""

    manifest: Mapping[str, Any]
    arms: Sequence[ArmFigures]
    comparisons: Sequence[Comparison]
    speed: PairSpeed | None
    concurrency: int

    @property
    def by_ideal(self) -> bool:
        """Whether arms are compared by ideal times.

        They are where several items were answered at once, because measured seconds then include
        waiting for other items.
        """
        return self.concurrency > 1 and self.speed is not None

    def time_of(self, comparison: Comparison) -> Interval:
        """The ratio of times by which two arms are compared."""
        if self.by_ideal and comparison.ideal is not None:
            return comparison.ideal
        return comparison.time

    def seconds_of(self, arm: ArmFigures) -> float:
        """An arm's mean seconds, ideal ones where arms are compared by these."""
        return arm.ideal if self.by_ideal and arm.ideal is not None else arm.seconds

    @property
    def repeats(self) -> int:
        """How often items were answered, at most."""
        return max((answer.repeat for arm in self.arms for answer in arm.answers), default=1)

    @property
    def test(self) -> str:
        """What the p values are of."""
        return "McNemar" if self.repeats == 1 else "sign-flip"

    def arm(self, name: str) -> ArmFigures | None:
        """An arm's row by name."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def between(self, first: str, second: str) -> Comparison | None:
        """The comparison of two arms, in this order."""
        return next((c for c in self.comparisons if (c.first, c.second) == (first, second)), None)


def parse_prices(text: str) -> Prices:
    """Prices per million tokens from ``SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT`` or JSON.

    Raises:
        ConfigError: The text is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            return Prices.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(
                f"prices: {first_complaint(error)}; give numbers from 0 to 1e9, per million "
                'tokens, such as {"small": {"input": 0.1, "output": 0.4}, '
                '"large": {"input": 2, "output": 8, "cached": 0.5}}'
            ) from None
    parts = text.split(",")
    try:
        small_in, small_out, large_in, large_out = (float(part) for part in parts)
        return Prices(
            small=Price(input=small_in, output=small_out),
            large=Price(input=large_in, output=large_out),
        )
    except ValueError:
        raise ConfigError(
            f"prices are {text[:80]!r}; give four numbers from 0 to 1e9, per million tokens: "
            "SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT, or the JSON of Prices"
        ) from None


def summarise(store: Store, prices: Prices | None = None) -> Summary:
    """Figures of everything in a bench folder."""
    speeds = [PairSpeed.of(line["speed"]) for line in store.lines if line["kind"] == "speed"]
    speed = median(speeds) if speeds else None
    answers: dict[str, dict[tuple[str, int], Answer]] = {}
    failed: set[Place] = set()
    shares: dict[str, float] = {}
    concurrency = 1
    for line in store.lines:
        if line["kind"] == "answer":
            place = place_of(line)
            answers.setdefault(place[0], {})[place[1:]] = _answer(line, speed)
            failed.discard(place)
            concurrency = max(concurrency, line["concurrency"])
        elif line["kind"] == "error":
            failed.add(place_of(line))
        elif line["kind"] == "share":
            shares[line["arm"]] = line["share"]
    names = sorted({*answers, *(place[0] for place in failed)}, key=_rank)
    arms = [
        _figures(
            name,
            list(answers.get(name, {}).values()),
            sum(place[0] == name for place in failed),
            shares.get(name),
            prices,
            alone=concurrency == 1,
        )
        for name in names
    ]
    pairs = [(a.name, b) for a in arms for b in _opponents(a, answers)]
    compared = [_compare(a, b, answers[a], answers[b], prices) for a, b in pairs if a in answers]
    return Summary(store.manifest, arms, compared, speed, concurrency)


def _rank(name: str) -> tuple[int, float, str]:
    """Small, large, then routed and random by threshold or share; last where others decide."""
    kind = name.partition("@")[0].partition("(")[0].partition(":")[0]
    order = {"small": 0, "large": 1, "routed": 2, "random": 3}.get(kind, 4)
    head = name.removeprefix("random(").rstrip(")").partition(":")[0]
    try:
        return order, float(head.partition("@")[2]), name
    except ValueError:
        return order, math.inf, name


def _opponents(arm: ArmFigures, answers: Mapping[str, Any]) -> list[str]:
    """The arms that an arm is compared with, as far as they have answers."""
    kinds = {
        "small": ["large"],
        "large": [],
        "routed": ["large", "small", f"random({arm.name})"],
        "random": ["large"],
    }[arm.kind]
    plain = {name.partition(":")[0]: name for name in reversed(list(answers)) if name[:1] in "sl"}
    names = [plain.get(name, name) for name in kinds]
    return [name for name in names if name in answers and name != arm.name]


def _answer(line: Mapping[str, Any], speed: PairSpeed | None) -> Answer:
    trace = Trace.model_validate(line["trace"])
    return Answer(
        item=line["item"],
        right=line["right"],
        score=line["score"],
        marked=line["marked"],
        seconds=line["seconds"],
        ideal=None if speed is None else speed.ideal(trace),
        trace=trace,
        usage=Usage.model_validate(line["usage"]),
        repeat=line.get("repeat", 1),
    )


def _figures(
    name: str,
    answers: list[Answer],
    errors: int,
    share: float | None,
    prices: Prices | None,
    *,
    alone: bool,
) -> ArmFigures:
    head, _, _ = name.partition(":")  # the settings after it may have any character
    kind = head.partition("@")[0].partition("(")[0]
    number = float(head.partition("@")[2]) if "@" in head and "(" not in head else None
    traces = [answer.trace for answer in answers]
    steps = [step for trace in traces for step in trace.steps]
    decided = [step for step in steps if step.decided]
    small, large = (sum(t.tokens(author) for t in traces) for author in ("small", "large"))
    ideals = [a.ideal for a in answers if a.ideal is not None]
    ideal = sum(ideals) if len(ideals) == len(answers) else 0.0
    seconds = sum(a.seconds for a in answers)
    cached = [tokens for tokens in map(_cached, traces) if tokens is not None]
    return ArmFigures(
        name=name,
        kind=kind,
        threshold=number if kind == "routed" else None,
        share=number if kind == "random" and number is not None else share,
        answers=answers,
        errors=errors,
        accuracy=pass_rate(list(_by_item(answers, lambda a: a.right).values())),
        seconds=seconds / len(answers) if answers else math.nan,
        ideal=ideal / len(answers) if ideal else None,
        small_tokens=small,
        large_tokens=large,
        discarded=sum(t.discarded_tokens for t in traces),
        requests=sum(t.requests for t in traces),
        large_share=large / (small + large) if small + large else 0.0,
        step_share=(sum(s.author == "large" for s in decided) / len(decided) if decided else None),
        unmarked=sum(not a.marked for a in answers),
        cached=statistics.fmean(cached) if cached else None,
        rho=seconds / ideal if ideal and alone else None,
        cost=None if prices is None else sum(prices.of(a.usage) for a in answers),
    )


def _cached(trace: Trace) -> float | None:
    """Prompt tokens that were in a model's cache at its first request, the mean of both models.

    A second request of the same step finds the whole prompt in the cache, which does not count.
    """
    first = trace.steps[0] if trace.steps else None
    if first is None or first.cached_tokens is None:
        return None
    models = 2 if first.entropy is not None and first.author == "large" else 1
    again = max(first.requests - models, 0) * (trace.prompt_tokens or 0)
    return max(first.cached_tokens - again, 0) / models


def _compare(
    first: str,
    second: str,
    one: Mapping[tuple[str, int], Answer],
    two: Mapping[tuple[str, int], Answer],
    prices: Prices | None,
) -> Comparison:
    shared = [place for place in one if place in two]
    a, b = [one[place] for place in shared], [two[place] for place in shared]
    cost = None
    if prices is not None:
        paid = [sum(prices.of(x.usage) for x in side) for side in (a, b)]
        cost = paid[0] / paid[1] if paid[1] else None
    right = [list(_by_item(side, lambda x: x.right).values()) for side in (a, b)]
    n = len(right[0])
    seconds = [_totals(side, lambda x: x.seconds) for side in (a, b)]
    ideals = [_totals(side, lambda x: x.ideal) for side in (a, b)]
    return Comparison(
        first,
        second,
        n,
        compare_right(*([answer for (answer,) in side] for side in right))
        if n == len(shared)
        else compare_repeated(*right),
        ratio(*seconds),
        ratio(*ideals) if shared and all(len(side) == n for side in ideals) else None,
        cost,
    )


def _by_item(answers: Iterable[Answer], value: Callable[[Answer], T]) -> dict[str, list[T]]:
    """A value of every answer, by item."""
    values: dict[str, list[T]] = {}
    for answer in answers:
        values.setdefault(answer.item, []).append(value(answer))
    return values


def _totals(answers: Iterable[Answer], seconds: Callable[[Answer], float | None]) -> list[float]:
    """The sum of every item; items without a figure are left out."""
    items = _by_item(answers, seconds).values()
    known = [[one for one in item if one is not None] for item in items]
    return [sum(some) for some, item in zip(known, items, strict=True) if len(some) == len(item)]
