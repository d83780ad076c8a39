"""What it costs to decide who writes a step.

    python -m benchmarks.decisions        # a few seconds

Microseconds of processor time a step, the call of the policy before the glimpse and after it, with
all that a rule looks at besides (budgets, the first steps). A wanted share has learned of 1,000
steps and decides within a chain of 60; computing H from 20 log-probabilities is a line of its own.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from glimp_integrations import LargeShare
from glimp_integrations.backends.scripted import uniform
from glimp_integrations.method.entropy import estimate
from glimp_integrations.method.policy import Glimpsed, RoutingPolicy, StepStart
from glimp_integrations.method.rule import Rule, Threshold
from glimp_integrations.method.steps import Step

_TIMES = 2000


def microseconds(function: Callable[[], object]) -> float:
    """The best of five rounds, for one call."""
    timer = timeit.Timer(function)
    return 1e6 * min(timer.repeat(5, _TIMES)) / _TIMES


def step(policy: RoutingPolicy, steps: list[Step]) -> Callable[[], object]:
    """Both calls of the rule for one step."""
    rule = Rule(policy)
    before = StepStart(len(steps), steps=steps)
    after = StepStart(len(steps), steps=steps, glimpse=Glimpsed((0.7,)))

    def decide() -> object:
        rule.action(before)
        return rule.action(after)

    return decide


def main() -> None:
    chain = [
        Step(n, "small" if n % 4 else "large", n % 10 / 5, is_answer=False, tokens=4)
        for n in range(60)
    ]
    share = LargeShare(0.25)
    for _ in range(17):
        share.learn(chain)
    logprobs = uniform(0.7)
    shown = Table("what", "µs")
    arms = {
        "threshold": step(Threshold(1.0), chain),
        "large_share=0.25": step(share, chain),
        "H of 20 log-probabilities": lambda: estimate(logprobs, "topk_renorm"),
    }
    for name, function in arms.items():
        shown.add_row(name, f"{microseconds(function):.1f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
