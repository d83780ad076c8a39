"""The routed pair on a Ray cluster (extra ``ray``): ``serve run glimp_integrations.serve.ray:app``.

Every replica is a process with the whole application: its own router, queue, metrics, limits of
keys, and memory of a wanted share. Replicas share nothing.

Source: Ray Serve's documentation, "Set Up FastAPI and HTTP" (ASGI applications) and "Pass
Arguments to Applications" (application builders).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve
from starlette.applications import Starlette

from glimp_integrations.errors import ConfigError
from glimp_integrations.serve.app import create_app
from glimp_integrations.serve.config import ServeConfig

__all__ = ["Arguments", "app"]

# Requests for /health, /metrics and the like find room beside all conversations.
_BESIDE = 32


class Arguments(BaseModel):
    """Arguments of the application, as ``serve run`` and the configuration of Ray Serve give them.

    Attributes:
        config: A TOML file as for ``glimp serve --config``, at this place on every node.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path | None = None


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """Build the application: one deployment, ``Glimp``.

    Ray decides where it listens and how many replicas there are, so ``host`` and ``port`` of the
    configuration have no effect. Each replica reads the configuration itself: no key travels
    through the cluster.

    Args:
        arguments: See :class:`Arguments`; none: everything comes from the environment.

    Raises:
        ConfigError: An argument is unknown, or the configuration is not possible. Without keys
            ``no_keys = true`` has to say that this is wanted: Ray's proxies may be reached from
            anywhere.
    """
    try:
        path = Arguments.model_validate(dict(arguments)).config
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(
            f"Ray application: argument {'.'.join(map(str, first['loc']))!r}: {first['msg']}; "
            "there is one, 'config', the path of a TOML file"
        ) from None
    config = _load(path)
    config.make_keys()  # a mistake is told here, and not by replicas that start again and again
    config.allowed(config.settings())

    def application() -> Starlette:
        return create_app(_load(path))

    deployed = serve.deployment(
        name="Glimp",
        # The queue is the application's own, which says after how long to come again.
        max_ongoing_requests=config.max_running + config.max_waiting + _BESIDE,
        graceful_shutdown_timeout_s=config.grace_seconds,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": max(1, config.max_running * 3 // 4),
        },
    )
    return deployed(serve.ingress(application)()).bind()


def _load(path: Path | None) -> ServeConfig:
    # Not a local address, whatever the file says: so other host names and proxies are let in,
    # and keys are asked for.
    return ServeConfig.load(path, host="0.0.0.0")  # noqa: S104
