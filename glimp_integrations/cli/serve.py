"""``glimp serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["run"]


def run(
    file: Path | None,
    allow: list[str] | None,
    prices: str | None,
    routing: dict[str, Any],
    **options: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        file: A TOML file with the configuration.
        allow: Settings that a request may change, such as ``"threshold=0.5..2"``.
        prices: Of both models; see :func:`~glimp_integrations.bench.summary.parse_prices`.
        routing: Routing settings; ``None``: not given.
        **options: Fields of the configuration; ``None``: not given.

    Raises:
        ConfigError: The extra is not installed, or the configuration is not possible.
    """
    try:
        from glimp_integrations.serve import ServeConfig
        from glimp_integrations.serve import run as serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"glimp serve needs {error.name}: pip install 'glimp-integrations[serve]'"
        ) from None
    given = {name: value for name, value in routing.items() if value is not None}
    if prices is not None:
        from glimp_integrations.bench.summary import parse_prices

        given["prices"] = parse_prices(prices).model_dump()
    serve(
        ServeConfig.load(
            file,
            routing=given or None,
            allow=None if not allow else dict(_bounds(text) for text in allow),
            **options,
        )
    )


def _bounds(text: str) -> tuple[str, Any]:
    """A setting's name and its bounds, from ``NAME``, ``NAME=MIN..MAX`` or ``NAME=A,B``."""
    name, equals, values = text.partition("=")
    if not equals:
        return name, True
    least, dots, most = values.partition("..")
    if not dots:
        return name, {"values": tuple(values.split(","))}
    try:
        return name, {
            **({"min": float(least)} if least else {}),
            **({"max": float(most)} if most else {}),
        }
    except ValueError:
        raise ConfigError(
            f"--allow {text}: expected NAME, NAME=MIN..MAX with numbers, or NAME=VALUE,VALUE"
        ) from None
