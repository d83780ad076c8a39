"""From the stored lines of a bench to the figures of each arm and the comparisons of arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from glimp_integrations.bench.stats import Interval, McNemar, compare_right, ratio, wilson
from glimp_integrations.bench.store import Store
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.speed import PairSpeed, median
from glimp_integrations.settings import Price, Prices
from glimp_integrations.trace.files import first_complaint
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import Trace

__all__ = ["Answer", "ArmFigures", "Comparison", "Summary", "parse_prices", "summarise"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one arm.

    Attributes:
        seconds: The time from the question to the end of the answer.
        ideal: The least seconds that its decisions take on this pair; ``None``: the speed was not
            measured.
    """

    item: str
    right: bool
    score: float
    marked: bool
    seconds: float
    ideal: float | None
    trace: Trace
    usage: Usage


@dataclass(frozen=True)
class ArmFigures:
    """One row of the table.

    Attributes:
        accuracy: The share of right answers, with Wilson's interval.
        seconds: The mean of an item.
        ideal: The mean of the least seconds that the decisions take, one answer at a time; ``None``
            without measured speed.
        rho: Measured over ideal time, all items together; ``None`` without measured speed, and
            where several items were answered at a time.
        large_share: The large model's share of kept tokens.
        step_share: The large model's share of the steps that a policy decided on; ``None``: it
            decided on none.
        threshold: In nats; ``None``: no threshold decided.
        cached: The mean number of prompt tokens that were in a cache at the first step. If it is
            larger in one arm than in another, their times are not comparable. ``None``: the
            servers do not report it.
        cost: The cost of all answers, in the prices' currency; ``None`` without prices.
    """

    name: str
    kind: str
    threshold: float | None
    share: float | None
    answers: Sequence[Answer]
    errors: int
    accuracy: Interval
    seconds: float
    ideal: float | None
    small_tokens: int
    large_tokens: int
    discarded: int
    requests: int
    large_share: float
    step_share: float | None
    unmarked: int
    cached: float | None
    rho: float | None
    cost: float | None

    @property
    def n(self) -> int:
        """The number of answers."""
        return len(self.answers)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the items both have answered.

    Attributes:
        right: McNemar's test and the difference of accuracies, first minus second.
        time: Seconds of the first over seconds of the second.
        ideal: The same ratio of ideal seconds; ``None`` without measured speed.
        cost: The cost of the first over that of the second; ``None`` without prices.
    """

    first: str
    second: str
    n: int
    right: McNemar
    time: Interval
    ideal: Interval | None
    cost: float | None


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
    answers: dict[str, dict[str, Answer]] = {}
    failed: dict[tuple[str, str], int] = {}
    shares: dict[str, float] = {}
    concurrency = 1
    for line in store.lines:
        if line["kind"] == "answer":
            answers.setdefault(line["arm"], {})[line["item"]] = _answer(line, speed)
            failed.pop((line["arm"], line["item"]), None)
            concurrency = max(concurrency, line["concurrency"])
        elif line["kind"] == "error":
            failed[line["arm"], line["item"]] = 1
        elif line["kind"] == "share":
            shares[line["arm"]] = line["share"]
    names = sorted({*answers, *(arm for arm, _ in failed)}, key=_rank)
    arms = [
        _figures(
            name,
            list(answers.get(name, {}).values()),
            sum(arm == name for arm, _ in failed),
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
        accuracy=wilson(sum(a.right for a in answers), len(answers)),
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
    one: Mapping[str, Answer],
    two: Mapping[str, Answer],
    prices: Prices | None,
) -> Comparison:
    shared = [item for item in one if item in two]
    a, b = [one[item] for item in shared], [two[item] for item in shared]
    cost = None
    if prices is not None:
        paid = [sum(prices.of(x.usage) for x in side) for side in (a, b)]
        cost = paid[0] / paid[1] if paid[1] else None
    ideals = [[x.ideal for x in side if x.ideal is not None] for side in (a, b)]
    return Comparison(
        first,
        second,
        len(shared),
        compare_right([x.right for x in a], [x.right for x in b]),
        ratio([x.seconds for x in a], [x.seconds for x in b]),
        ratio(*ideals) if shared and all(len(side) == len(shared) for side in ideals) else None,
        cost,
    )
