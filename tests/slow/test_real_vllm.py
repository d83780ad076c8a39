"""The real vLLM: what its answers look like, and routing against it.

Needs `make vllm` first (or ``GLIMP_VLLM``, the folder of an environment with vLLM) and the
embedded pair. ``benchmarks/real_vllm`` holds the proofs and prints what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from rich.console import Console

from benchmarks.real_vllm import environment, models, routing, wire
from benchmarks.real_vllm.bench import Bench, Proof, timed
from benchmarks.real_vllm.server import serving

BOTH_BYTES = 10e9  # two servers, and transformers beside them

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pair,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not environment.installed(),
        reason=f"no vLLM in {environment.environment()}: run `make vllm`, or name an environment "
        "of your own with GLIMP_VLLM",
    ),
]


@contextmanager
def bench_of(*sizes: str, dtype: str = "bfloat16") -> Iterator[Bench]:
    console = Console(file=sys.stderr)
    with ExitStack() as stack:
        for size in sizes:
            models.convert(size)
        servers = [
            stack.enter_context(serving(size, console=console, dtype=dtype)) for size in sizes
        ]
        bench = Bench(*servers)
        stack.callback(bench.close)
        yield bench


@pytest.fixture(scope="module")
def served() -> Iterator[Bench]:
    """The small model in bfloat16, as people serve it."""
    with bench_of("small") as bench:
        yield bench


def assert_holds(proof: Proof, bench: Bench) -> None:
    result = timed(proof, bench)
    print(f"\n{result.name}: {result.said}")
    assert result.ok, result.said


@pytest.mark.parametrize("size", ["small", "large"])
def test_tokenizer_and_template_are_those_of_llama_cpp(size: str) -> None:
    models.convert(size)
    assert models.differences(size) == []


@pytest.mark.parametrize("proof", [*wire.PROOFS, *routing.PROOFS], ids=lambda p: p.__name__)
def test_in_bfloat16(proof: Proof, served: Bench) -> None:
    assert_holds(proof, served)


def test_in_float32_routing_is_equal_to_the_letter() -> None:
    with bench_of("small", dtype="float32") as bench:
        for proof in routing.PROOFS:
            assert_holds(proof, bench)


def test_both_models_on_vllm() -> None:
    if psutil.virtual_memory().available < BOTH_BYTES:
        pytest.skip(f"two servers need {BOTH_BYTES / 1e9:.0f} GB of free memory")
    with bench_of("small", "large") as bench:
        assert_holds(routing.strategies, bench)
