"""What a batch is: its files, its pair, and how it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimp_integrations.adapter import shaping
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.settings import RoutingSettings

__all__ = ["FORMAT", "BatchPlan", "manifest_of"]

FORMAT = 1


@dataclass(frozen=True)
class BatchPlan:
    """A batch.

    Attributes:
        requests: File of requests.
        results: File of their results; a batch that was stopped goes on in it.
        settings: Routing settings of every request.
        model_name: The ``model`` that the requests name.
        concurrency: Requests that run at a time; on a cluster: in each actor.
        retry_failed: Whether requests that failed in an earlier run are asked again.
        max_line_bytes: Longest request, in bytes.
        ray_address: Ray cluster that does the work: its address, ``"auto"`` for the one this
            machine belongs to, ``"local"`` for a new one on this machine. ``None``: no cluster.
        ray_actors: How many actors there, each with a router.

    Raises:
        ConfigError: A value is impossible.
    """

    requests: Path
    results: Path
    settings: RoutingSettings = field(default_factory=RoutingSettings, repr=False)
    model_name: str = "glimp"
    concurrency: int = 8
    retry_failed: bool = False
    max_line_bytes: int = 4 * 1024 * 1024
    ray_address: str | None = None
    ray_actors: int = 1

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"concurrency is {self.concurrency}; at least one request must run")
        if self.ray_actors < 1:
            raise ConfigError(f"ray_actors is {self.ray_actors}; at least one must do the work")
        if self.max_line_bytes < 1024:
            raise ConfigError(
                f"max_line_bytes is {self.max_line_bytes}; give 1024 at least, a short request"
            )
        if not self.model_name:
            raise ConfigError("model_name is empty; give the name that the requests have")
        both = self.requests.exists() and self.results.exists()
        if both and self.results.samefile(self.requests):
            raise ConfigError(
                f"{self.results} is the file of requests; choose another one for the results"
            )


def manifest_of(plan: BatchPlan, router: GlimpRouter) -> dict[str, Any]:
    """What distinguishes this batch from one with the same requests, as JSON data.

    Models by name, not by address: a server may have moved when a batch goes on. Settings that
    have their default are left out, so that a newer version with more settings goes on, too.

    Args:
        plan: What is asked.
        router: Of models that were asked for their names.
    """
    usual = shaping(RoutingSettings())
    own = shaping(router.settings)
    return {
        "format": FORMAT,
        "small": router.small.name,
        "large": router.large.name,
        "model_name": plan.model_name,
        "settings": {name: value for name, value in own.items() if value != usual[name]},
    }
