"""From the log-probabilities of one token to its entropy, in nats.

The paper (section 3.3) compares H of the small model's first-token distribution with a
threshold. A server shows only the k likeliest tokens, so an estimator has to say what it does
about the rest; models in this process show the whole distribution (``"full"``). Estimates of
different estimators or different k are never comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from glimp_integrations.errors import ConfigError

__all__ = ["Estimator", "begin_of", "estimate", "measurable"]

Estimator = Literal["topk_renorm", "topk_other", "full"]

# More than rounding (half precision, decimals on the wire) makes of a logarithm of 1, in nats, and
# of a sum of 1. Twice the likeliest token, or zeros all over, is more.
_ABOVE_ZERO, _MOST_MASS = 0.01, 1.5


def measurable(logprobs: Sequence[float] | None, k: int) -> bool:
    """Whether these can be the log-probabilities of the k likeliest tokens.

    Fewer do not count: a server that shows the written token alone (as some do after tokens that
    were drafted for it) would pass for a model without doubt, H = 0. Nor do figures that cannot be
    logarithms of probabilities: NaN, positive ones, more mass than one distribution has.

    Args:
        logprobs: Natural logarithms, shape ``(n,)``; ``-inf`` counts as probability 0.
        k: How many were asked for.
    """
    if logprobs is None or len(logprobs) < max(k, 1):
        return False
    try:
        return _mass(logprobs) is not None
    except (TypeError, ValueError, OverflowError):  # no numbers at all, from somebody's backend
        return False


def _mass(logprobs: Sequence[float]) -> float | None:
    """The probability that these have together; ``None`` where they cannot be logarithms of it."""
    if any(map(math.isnan, logprobs)) or max(logprobs) > _ABOVE_ZERO:  # exp would overflow
        return None
    mass = math.fsum(map(math.exp, logprobs))
    return mass if 0.0 < mass <= _MOST_MASS else None


def begin_of(logprobs: Sequence[float]) -> str:
    """The first figures, for messages."""
    return ", ".join(f"{value:.3g}" for value in logprobs[:3]) + ", …" * (len(logprobs) > 3)


def estimate(logprobs: Sequence[float], estimator: Estimator) -> float:
    """Estimate the entropy of a next-token distribution.

    Args:
        logprobs: Natural-log probabilities of the k likeliest tokens, shape ``(k,)``, of the
            unscaled distribution. ``-inf`` is allowed and counts as probability 0.
        estimator: ``"topk_renorm"`` divides by the mass of the top k, as the authors' code does
            (at most ln k nats). ``"topk_other"`` adds the missing mass as one more token, a lower
            bound of the true entropy.

    Returns:
        The entropy in nats, at least 0.

    Raises:
        ConfigError: No logprobs, figures that are none (NaN, positive, more mass than one
            distribution has), or an estimator that needs more than these.
    """
    mass = _mass(logprobs) if logprobs else None
    if mass is None:
        raise ConfigError(
            "entropy needs natural logarithms of probabilities, at least one of them finite, got "
            f"{list(logprobs)!r}"
        )
    probs = [math.exp(value) for value in logprobs]
    if estimator == "topk_renorm":
        probs = [p / mass for p in probs]
    elif estimator == "topk_other":
        # Rounding on the wire can push the mass a little over 1.
        probs = [*probs, 1.0 - mass] if mass < 1.0 else [p / mass for p in probs]
    else:
        raise ConfigError(
            f"entropy estimator {estimator!r} cannot be had from the {len(probs)} likeliest "
            "tokens: choose 'topk_renorm' or 'topk_other'"
        )
    return max(0.0, -math.fsum(p * math.log(p) for p in probs if p > 0.0))
