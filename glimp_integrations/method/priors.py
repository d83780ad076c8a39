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

_MEASURED: dict[str, Prior] = {}


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
