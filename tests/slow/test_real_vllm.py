"""The real vLLM: what its answers look like, and routing against it.

Needs `make vllm` first (or ``GLIMP_VLLM``, the folder of an environment with vLLM) and the
bundled models. ``benchmarks/real_vllm`` holds the proofs and prints what they found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
from rich.console import Console

from benchmarks.real_vllm import environment, models, routing, wire
from benchmarks.real_vllm.bench import Bench, Proof, timed
from benchmarks.real_vllm.server import serving

BOTH_BYTES = 10e9  # two servers, and transformers beside them

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bundled,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not environment.installed(),
        reason=f"no vLLM in {environment.environment()}: run `make vllm`, or name an environment "
        "of your own with GLIMP_VLLM",
    ),
]


CASES = [
    *((("bfloat16", False), proof) for proof in (*wire.PROOFS, *routing.PROOFS)),
    *((("float32", False), proof) for proof in routing.PROOFS),
    (("bfloat16", True), routing.strategies),
]


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One kind of servers at a time; pytest orders the tests by it."""
    dtype, both = request.param
    if both and psutil.virtual_memory().available < BOTH_BYTES:
        pytest.skip(f"two servers need {BOTH_BYTES / 1e9:.0f} GB of free memory")
    sizes = ["small", "large"] if both else ["small"]
    console = Console(file=sys.stderr)
    with ExitStack() as stack:
        for size in sizes:
            models.convert(size)
        bench = Bench(
            *[stack.enter_context(serving(s, console=console, dtype=dtype)) for s in sizes]
        )
        stack.callback(bench.close)
        yield bench


@pytest.mark.parametrize("size", ["small", "large"])
def test_tokenizer_and_template_are_those_of_llama_cpp(size: str) -> None:
    models.convert(size)
    assert models.differences(size) == []


@pytest.mark.parametrize(
    ("bench", "proof"),
    CASES,
    indirect=["bench"],
    ids=[f"{dtype}-{'both-' * both}{proof.__name__}" for (dtype, both), proof in CASES],
)
def test_it_holds(bench: Bench, proof: Proof) -> None:
    result = timed(proof, bench)
    print(f"\n{result.name}: {result.summary}")
    assert result.ok, result.summary
