"""How H is computed in a call, and what a threshold therefore belongs to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from glimp_integrations.backends.base import Backend, Capabilities
from glimp_integrations.calibrated_threshold import CalibratedThreshold, Conditions
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError
from glimp_integrations.method.entropy import Estimator
from glimp_integrations.runtime.failures import asked
from glimp_integrations.settings import RoutingSettings

__all__ = ["Measuring", "conditions", "plan_measuring"]

TOP_LOGPROBS = 20  # the reference code's k and the cap of most servers

# Weights as files and repositories name them: q4_k_m, IQ3_XS, bf16, fp8, 4bit, AWQ.
_WEIGHTS = re.compile(
    r"(?i)(?<![a-z0-9])(i?q\d(?:_[a-z0-9]+)*|bf16|fp?16|fp?32|fp8|int[48]|[48]bit|awq|gptq|nvfp4|mxfp4)"
    r"(?![a-z0-9])"
)


@dataclass(frozen=True, slots=True)
class Measuring:
    """How H is computed.

    Attributes:
        glimpses: Whether any glimpse is made.
        estimator: The estimator.
        k: How many log-probabilities a glimpse asks for; 0: no glimpse is made.
    """

    glimpses: bool
    estimator: Estimator
    k: int


def plan_measuring(
    settings: RoutingSettings,
    small: Backend,
    large: Backend,
    capabilities: Capabilities,
    *,
    needed: bool,
) -> Measuring:
    """How a call computes H. Warns if a calibrated threshold belongs to something else.

    Args:
        settings: The call's settings.
        small: The small model.
        large: The large model.
        capabilities: What the small model can do.
        needed: Whether the small model writes at all, or the large one works alone.

    Raises:
        ConfigError: The small model cannot be measured by the estimator.
        UnsuitableEndpointError: It shows too few log-probabilities.
    """
    glimpses = needed and settings.routes
    estimator = _estimator(settings, capabilities, needed=glimpses)
    with asked("small", small):
        k = _glimpse_size(small, capabilities, estimator) if glimpses else 0
    if glimpses and isinstance(settings.threshold, CalibratedThreshold):
        settings.threshold.compare(
            _conditions_of(settings, small, large, capabilities, estimator, k)
        )
    return Measuring(glimpses, estimator, k)


async def conditions(settings: RoutingSettings, small: Backend, large: Backend) -> Conditions:
    """What a threshold belongs to.

    Raises:
        ConfigError: The small model cannot be measured by the estimator.
        UnsuitableEndpointError: It shows no log-probabilities.
        BackendError: It cannot be reached.
    """
    with asked("small", small):
        capabilities = await small.capabilities()
    estimator = _estimator(settings, capabilities, needed=True)
    with asked("small", small):
        k = _glimpse_size(small, capabilities, estimator)
    return _conditions_of(settings, small, large, capabilities, estimator, k)


def _conditions_of(
    settings: RoutingSettings,
    small: Backend,
    large: Backend,
    capabilities: Capabilities,
    estimator: str,
    k: int,
) -> Conditions:
    weights = _WEIGHTS.search(small.name)
    template = capabilities.template
    return Conditions(
        small_model=small.name,
        large_model=large.name,
        quantisation=capabilities.weights or (weights.group(1).lower() if weights else None),
        template=None if template is None else _hash(template),
        estimator=estimator,
        k=None if estimator == "full" else k,
        step_delimiter=settings.step_delimiter,
        glimpse=settings.glimpse,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _estimator(settings: RoutingSettings, small: Capabilities, *, needed: bool) -> Estimator:
    """The estimator of this call; thresholds of different ones are not comparable."""
    if settings.entropy_estimator == "auto":
        return "full" if small.in_process else "topk_renorm"
    if settings.entropy_estimator == "full" and needed and not small.in_process:
        raise ConfigError(
            "entropy_estimator 'full' needs the whole vocabulary, and this small model shows only "
            f"its {small.top_logprobs} likeliest tokens: use 'topk_renorm' or 'topk_other', or a "
            "small model of this process ('hf:...')"
        )
    return settings.entropy_estimator


def _glimpse_size(small: Backend, capabilities: Capabilities, estimator: Estimator) -> int:
    """How many log-probabilities a glimpse asks for."""
    shown, requested = capabilities.top_logprobs, capabilities.requested_logprobs
    if shown <= 0:
        refusal = capabilities.logprobs_refusal
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=small.label,
            detail="returns no top-k log-probabilities, so there is no entropy to route by"
            + (f" ({refusal})" if refusal else ""),
            remedy="Use it as the large model only, or serve it with logprobs enabled",
        )
    k = min(TOP_LOGPROBS, shown) if requested is None else requested
    if shown < k:
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=small.label,
            detail=f"returns {shown} of {k} requested log-probabilities",
            remedy=f"Set top_logprobs={shown} on the backend and calibrate the "
            "threshold for it: entropies of different k are not comparable"
            if shown > 1
            else "Use it as the large model only: the probability of one token says nothing about "
            "the others",
        )
    if k == 1 and estimator == "topk_renorm":
        raise ConfigError(
            f"small model {small.label} is asked for 1 log-probability a token, and "
            "entropy_estimator 'topk_renorm' finds no doubt in one: H would be 0 at every step. "
            "Ask for more (top_logprobs=20), or use 'topk_other'"
        )
    return k
