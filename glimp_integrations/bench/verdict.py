"""The verdict in plain words: does routing pay here, at which threshold, and why?"""

from __future__ import annotations

import math
import re

from glimp_integrations.bench.stats import Interval
from glimp_integrations.bench.summary import ArmFigures, Comparison, Summary

__all__ = ["verdict"]

SIGNIFICANT = 0.05


def verdict(summary: Summary) -> list[str]:
    """Paragraphs about every routed arm, the best of them, and reasons for caution."""
    routed = [arm for arm in summary.arms if arm.kind == "routed" and arm.n]
    large = next((arm for arm in summary.arms if arm.kind == "large" and arm.n), None)
    paragraphs = [_of_one(summary, arm, large) for arm in routed]
    if routed and large is not None:
        paragraphs.append(_choice(summary, routed, large))
    return paragraphs + _warnings(summary, routed)


def _of_one(summary: Summary, arm: ArmFigures, large: ArmFigures | None) -> str:
    parts = []
    against = summary.between(arm.name, large.name) if large is not None else None
    if against is not None and against.n:
        difference = against.right.difference
        parts.append(
            f"{_time(summary, against)} and is {_points(difference)} the large model "
            f"alone in accuracy ({_interval(difference)} points, "
            f"{summary.test} p = {against.right.p:.2g}, {against.n} items)"
        )
        if against.cost is not None:
            parts.append(f"costs {100 * against.cost:.0f} % of it")
    small = next((a for a in summary.arms if a.kind == "small"), None)
    other = summary.between(arm.name, small.name) if small is not None else None
    if other is not None and other.n:
        difference = other.right.difference
        parts.append(
            f"is {_points(difference)} the small model alone "
            f"({_interval(difference)} points, p = {other.right.p:.2g})"
        )
    control = summary.between(arm.name, f"random({arm.name})")
    if control is not None and control.n:
        difference = control.right.difference
        if control.right.p < SIGNIFICANT:
            word = "better" if difference.value > 0 else "worse"
        else:
            word = "not shown to be better" if difference.value >= 0 else "not better"
        parts.append(
            f"is {word} than random routing with the same share of steps "
            f"({_interval(difference)} points, p = {control.right.p:.2g})"
        )
    share = "" if arm.step_share is None else f" ({100 * arm.step_share:.0f} % of steps large)"
    return (
        f"{arm.name}{share} {'; '.join(parts)}."
        if parts
        else f"{arm.name}{share} has no arm to be compared with."
    )


def _choice(summary: Summary, routed: list[ArmFigures], large: ArmFigures) -> str:
    """The arm that pays: reliably faster, and not shown to be less accurate."""
    paying, why_not = [], []
    for arm in routed:
        against = summary.between(arm.name, large.name)
        if against is None or not against.n:
            continue
        time = summary.time_of(against)
        faster = not math.isnan(time.high) and time.high < 1
        worse = against.right.p < SIGNIFICANT and against.right.difference.value < 0
        if faster and not worse:
            paying.append((arm, against))
        else:
            reasons = [] if faster else ["not reliably faster"]
            reasons += ["less accurate"] if worse else []
            why_not.append(f"{arm.name} is {' and '.join(reasons)}")
    if not paying:
        return "Routing does not pay here: " + ("; ".join(why_not) or "nothing to compare") + "."
    best = max(paying, key=lambda pair: (pair[0].accuracy.value, -summary.seconds_of(pair[0])))
    arm, against = best
    sure = against.right.difference.low > -0.05
    proof = (
        "and at most 5 points less accurate"
        if sure
        else "and not shown to be less accurate, which so few items cannot rule out"
    )
    text = f"Routing pays in time: {arm.name} is faster than the large model alone {proof}."
    small = next((a for a in summary.arms if a.kind == "small"), None)
    other = summary.between(arm.name, small.name) if small is not None else None
    if other is not None and other.n and other.right.p >= SIGNIFICANT:
        cheaper = " and takes less time" if summary.time_of(other).value > 1 else ""
        text += (
            " But it is not shown to be more accurate than the small model alone, which needs no "
            f"large model{cheaper}."
        )
    control = summary.between(arm.name, f"random({arm.name})")
    if control is not None and control.n and control.right.p >= SIGNIFICANT:
        text += (
            f" It is not shown that {_decider(arm)} picks the right steps: random routing with the "
            "same share does no differently on these items."
        )
    return text


def _warnings(summary: Summary, routed: list[ArmFigures]) -> list[str]:
    warnings = []
    if len({arm.name if arm.threshold is None else arm.threshold for arm in routed}) > 1:
        only = all(arm.threshold is not None for arm in routed)
        tried, it = ("thresholds", "threshold") if only else ("ways to route", "one")
        warnings.append(
            f"Several {tried} were tried on these questions, and the best of several looks better "
            f"than it is: choose the {it} with one --seed, and report it with another."
        )
    if summary.concurrency > 1:
        warnings.append(
            f"Up to {summary.concurrency} questions were answered at a time: seconds include "
            "waiting for each other."
            + (
                " Times are compared by the ideal: the tokens both models wrote and read, at the "
                "speed measured alone, as if one question were asked at a time."
                if summary.by_ideal
                else ""
            )
        )
    if failed := sum(arm.errors for arm in summary.arms):
        warnings.append(
            f"{failed} answer{'s' * (failed != 1)} failed and count neither as right nor as "
            "wrong; the same command tries them again."
        )
    cached = [arm.cached for arm in summary.arms if arm.cached is not None]
    if cached and max(cached) - min(cached) > 50:
        warnings.append(
            f"Servers had between {min(cached):.0f} and {max(cached):.0f} tokens of the first "
            "prompt in a cache, depending on the arm: times are not comparable. Switch prompt "
            "caches of earlier conversations off."
        )
    sizes = {arm.n for arm in summary.arms}
    if len(sizes) > 1:
        warnings.append(
            f"Arms have between {min(sizes)} and {max(sizes)} answers; arms are compared on the "
            "items both have."
        )
    return warnings


def _decider(arm: ArmFigures) -> str:
    return "the policy" if re.search(r"[:,]policy=", arm.name) else "entropy"


def _time(summary: Summary, comparison: Comparison) -> str:
    time = summary.time_of(comparison)
    saved = 100 * (1 - time.value)
    if math.isnan(saved):
        return "takes an unknown time"
    word = f"saves {saved:.0f} %" if saved >= 0 else f"takes {-saved:.0f} % more"
    if math.isnan(time.low):
        return f"{word} of the time"
    low, high = 100 * (1 - time.high), 100 * (1 - time.low)
    if saved < 0:
        low, high = -high, -low
    return f"{word} of the time ({low:.0f} to {high:.0f})"


def _points(difference: Interval) -> str:
    points = 100 * difference.value
    if abs(points) < 0.5:
        return "level with"
    number = f"{abs(points):.0f}"
    return f"{number} point{'' if number == '1' else 's'} {'above' if points > 0 else 'below'}"


def _interval(difference: Interval) -> str:
    return f"{100 * difference.low:+.0f} to {100 * difference.high:+.0f}"
