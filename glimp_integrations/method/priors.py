"""Values of H that stand in until a pair has shown its own, by small model and place.

Measured: see ``benchmarks/entropies.py``. A model that is not listed begins with
:data:`~glimp_integrations.method.large_share.FIRST_GUESS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from glimp_integrations.method.large_share import FIRST_GUESS, Prior, quantile
from glimp_integrations.method.policy import Place

__all__ = ["prior_of", "scaled"]

_MEASURED: dict[str, Prior] = {
    # python -m benchmarks.entropies: 30 questions of each of four tasks, threshold 1 nat, seed 7.
    "qwen2.5-coder-0.5b-instruct": {
        "first": (
            *(0.0591, 0.1551, 0.2269, 0.425, 0.5382, 0.6625, 0.6975, 0.7328, 0.794, 0.8279),
            *(0.9028, 0.9516, 1.001, 1.0534, 1.1789, 1.3547, 1.5219, 1.6885, 1.9616, 2.3037),
        ),
        "after_tool": (
            *(0.135, 0.1498, 0.1753, 0.2001, 0.2442, 0.2585, 0.2766, 0.2819, 0.2872, 0.2955),
            *(0.3209, 0.3414, 0.3453, 0.352, 0.3631, 0.3762, 0.3964, 0.4209, 0.8112, 1.2095),
        ),
        "later": (
            *(0.0004, 0.0014, 0.0027, 0.0043, 0.0063, 0.0097, 0.0157, 0.0259, 0.0639, 0.1613),
            *(0.2949, 0.3601, 0.5101, 0.7342, 0.9067, 1.0041, 1.1824, 1.2743, 1.4099, 1.6958),
        ),
    },
}


def prior_of(model: str) -> Prior:
    """What is known of a small model.

    Args:
        model: Its name, or its file's.
    """
    name = model.lower()
    return next((prior for known, prior in _MEASURED.items() if known in name), {})


def scaled(prior: Prior, share: float, threshold: float) -> Prior:
    """A prior whose bound for a share is the threshold that a calibration found.

    Args:
        prior: Values of H in nats, by place.
        share: 0 to 1.
        threshold: In nats.
    """
    places: tuple[Place, ...] = get_args(Place)
    return {place: _scaled(prior.get(place, FIRST_GUESS), share, threshold) for place in places}


def _scaled(values: Sequence[float], share: float, threshold: float) -> list[float]:
    bound = quantile(sorted(values), 1 - share)
    return [value * threshold / bound for value in values]
