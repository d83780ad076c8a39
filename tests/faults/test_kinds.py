"""Faults that once gave a wrong text, an error without need, or a call without an end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .cases import draw_case, run_case
from .kinds import KINDS
from .replies import TEMPLATE
from .server import Fault


@pytest.mark.parametrize(
    ("kind", "role", "skip", "place", "shape", "strategy"),
    [
        # The next request on the connection got an answer that it had not asked for.
        ("unasked: stream", "large", 1, 0.0, "generic", "fused"),
        ("unasked: object", "large", 1, 0.0, "vllm", "overlap"),
        # What breaks in the first packet, or in a probe, was not repeated.
        ("chunks: huge size", "small", 1, 0.0, "vllm", "two_request"),
        ("event: error text", "large", 0, 0.3, "llama.cpp", "auto"),
        ("stream ends early", "small", 0, 0.3, "generic", "fused"),
        # Read as fast as it came, for ever.
        ("flood: comments", "small", 1, 0.3, "vllm", "fused"),
        ("ignores max_tokens", "small", 0, 0.0, "vllm", "overlap"),
        # Taken for the end of the text.
        ("high counts", "small", 1, 0.0, "llama.cpp", "fused"),
        ("high counts", "large", 1, 0.0, "generic", "two_request"),
        ("stream ends early", "small", 1, 0.9, "vllm", "two_request"),
    ],
)
async def test_is_right_after_one(
    kind: str, role: str, skip: int, place: float, shape: str, strategy: str
) -> None:
    fault = Fault(kind, KINDS[kind].answer, "stream", skip=skip, place=place)
    drawn = draw_case(1, 0)
    case = replace(
        drawn,
        shapes={"small": shape, "large": shape},
        faults={"small": [], "large": [], role: [fault]},
        late=(),
        options=drawn.options
        | {"strategy": strategy, "max_retries": 2, "timeout": 1.0, "on_backend_error": "raise"},
        backends={
            name: {**options, "model": f"{name}-model", "server": shape, "device": None}
            | ({"chat_template": TEMPLATE} if shape == "generic" else {})
            for name, options in drawn.backends.items()
        },
        way="arun",
        seconds=20.0,
    )
    outcome = await run_case(case)

    assert (outcome.kind, outcome.failures) == ("right", [])
    assert fault.fired
