"""What a bench runs, and the manifest that tells one bench from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.backends.base import Backend
from glimp_integrations.bench.arms import Arm
from glimp_integrations.bench.tasks import Task
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string
from glimp_integrations.router import GlimpRouter

__all__ = ["BenchPlan", "manifest_of", "settings_hash"]

SEEDS_APART = 100_000
"""Between the seeds of two repeats. Each request of a call uses the next number, so that repeats
closer together would draw with each other's numbers."""


@dataclass(frozen=True)
class BenchPlan:
    """What a bench runs.

    Attributes:
        task: The items.
        arms: The arms, made by :func:`parse_arms`.
        settings: Routing settings of all arms (``temperature``, ``max_tokens``, ...).
        concurrency: How many items are answered at the same time. With more than one, measured
            times include waiting.
        measure_every: After how many answers the pair's speed is measured again, for rho (it takes
            some 400 tokens of each model); 0: never. Where several items are answered at once, it
            is measured before and after all of them.
        repeats: How often every arm answers every item, each time with another seed.
    """

    task: Task
    arms: Sequence[Arm]
    settings: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 1
    measure_every: int = 40
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"concurrency is {self.concurrency}; at least 1")
        if self.measure_every < 0:
            raise ConfigError(f"measure_every is {self.measure_every}; 0 for never, or more")
        if self.repeats < 1:
            raise ConfigError(f"repeats are {self.repeats}; at least 1")

    def settings_of(self, arm: Arm, repeat: int = 1) -> dict[str, Any]:
        """All settings of an arm, for one of the repeats.

        Without think tags, the whole reply of a model is graded. Calls are routed even where that
        does not pay, because whether it does is the question; ``route`` can be set in an arm.
        """
        settings = {"untagged_answer": "whole", "route": "always", **self.settings, **arm.settings}
        if settings.get("seed") is not None:
            settings["seed"] += (repeat - 1) * SEEDS_APART
        return settings

    def hash_of(self, arm: Arm) -> str:
        """A short fingerprint of an arm's settings, the same in every process and release."""
        settings = self.settings_of(arm)
        if arm.policy is not None:
            settings["policy"] = arm.policy
        if settings["route"] == "always":
            del settings["route"]  # older results did not have it
        return settings_hash(settings)


def manifest_of(plan: BenchPlan, router: GlimpRouter) -> dict[str, Any]:
    """What all results of a folder have in common. Arms and items may be added later."""
    return {
        "task": plan.task.name,
        "task_identity": dict(plan.task.identity),
        "answer_format": plan.task.format.name,
        "small_model": _model(router.small, router.settings.small),
        "large_model": _model(router.large, router.settings.large),
        "settings": dict(plan.settings),
        "concurrency": plan.concurrency,
    }


def _model(backend: Backend, argument: object) -> str:
    if isinstance(argument, str):  # a model string
        return f"{backend.name} ({public_model_string(argument)})"
    return backend.name


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short fingerprint of a set of settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
