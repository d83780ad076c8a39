"""Both strategies on the real pair: the same decisions and the same text.

llama.cpp computes a token a little differently when it reads it in a batch than when it wrote it
(up to some 0.05 nats of H here). Read one token at a time, both are the same computation, and the
comparison can be strict.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import reasoning_gym

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, WeightFile, ensure

PROBLEMS = 10
EDGE = 0.02  # nats
ONE_BY_ONE = {"n_ubatch": 1, "n_batch": 32, "no_extra_bufts": True, "warmup": False}


@pytest.fixture(scope="module")
def steady() -> Iterator[GlimpRouter]:
    """The bundled models' weights, with one arithmetic for reading and writing."""

    def backend(file: WeightFile) -> LlamaCppBackend:
        return LlamaCppBackend(ensure(file), parallel=1, server_options=ONE_BY_ONE)

    small, large = backend(SMALL), backend(LARGE)
    # Routed however long the machine takes: the tests compare texts of several calls.
    yield GlimpRouter(small, large, temperature=0, route="always")
    small.close()
    large.close()


SHORT = [
    "Tom has 3 boxes with 4 pens. He gives away 5 pens. How many are left? Think step by step.",
    "A pen costs 3 dollars, a book 5 more. What do 4 of both cost? Think step by step.",
]
"""Reading takes as long as writing here, a token at a time: these are half as long to read."""


def questions() -> list[str]:
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=PROBLEMS, seed=7)
    return [f"{item['question']} Think step by step." for item in problems]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("problems", "budget"), [(2, 64), pytest.param(PROBLEMS, 100, marks=pytest.mark.slow)]
)
def test_two_request_and_fused_decide_and_write_the_same(
    steady: GlimpRouter, problems: int, budget: int
) -> None:
    boundaries = large_steps = 0
    divergences: list[tuple[int, int, float]] = []
    for number, question in enumerate(questions() if problems > len(SHORT) else SHORT):
        two, fused = (
            steady.run(question, strategy=name, max_tokens=budget)
            for name in ("two_request", "fused")
        )
        boundaries += len(two.trace.steps)
        large_steps += sum(step.author == "large" for step in two.trace.steps)
        found = first_divergence(two, fused)
        if found is not None:
            divergences.append((number, *found))
        assert two.trace.requests > fused.trace.requests
    print(
        f"\n{boundaries} boundaries, {large_steps} to the large model; first divergences "
        f"(problem, step, nats from the threshold): {divergences or 'none'}"
    )
    assert large_steps >= max(1, problems // 3)  # the comparison saw hand-overs
    assert boundaries >= 2 * problems  # other processors write other texts
    assert all(edge <= EDGE for _, _, edge in divergences)


def first_divergence(two: RoutedAnswer, fused: RoutedAnswer) -> tuple[int, float] | None:
    """The first step that differs, and how close H was to the threshold there."""
    for a, b in zip(two.trace.steps, fused.trace.steps, strict=False):
        if (a.author, a.text) != (b.author, b.text):
            assert a.entropy is not None and b.entropy is not None
            threshold = float(a.threshold)
            return a.index, min(abs(a.entropy - threshold), abs(b.entropy - threshold))
        assert a.entropy is not None and b.entropy is not None
        assert abs(a.entropy - b.entropy) <= EDGE
    assert len(two.trace.steps) == len(fused.trace.steps)
    return None


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_pair_as_users_run_it_differs_by_numerics_only(router: GlimpRouter) -> None:
    """Without the steady arithmetic: H of both strategies at equal texts, and where they part."""
    differences, divergences = [], []
    for number, question in enumerate(questions()):
        two, fused = (
            router.run(question, strategy=name, max_tokens=512) for name in ("two_request", "fused")
        )
        for a, b in zip(two.trace.steps, fused.trace.steps, strict=False):
            assert a.entropy is not None and b.entropy is not None
            differences.append(abs(a.entropy - b.entropy))
            edge = min(abs(h - float(a.threshold)) for h in (a.entropy, b.entropy))
            if (a.author, a.text) != (b.author, b.text):
                divergences.append((number, a.index, a.author == b.author, round(edge, 3)))
                break
    differences.sort()
    print(
        f"\n|dH| at {len(differences)} boundaries with equal text before them: median "
        f"{differences[len(differences) // 2]:.4f}, max {differences[-1]:.4f} nats; first "
        f"divergences (problem, step, same author, nats from the threshold): {divergences}"
    )
    assert len(differences) >= 2 * PROBLEMS
    assert differences[-1] <= 0.1
    assert all(same or edge <= 0.05 for _, _, same, edge in divergences)
