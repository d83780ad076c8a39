"""The figures as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

__all__ = ["table"]

_ARMS = {
    "small": "{small} alone",
    "large": "{large} alone",
    "routed": "routed",
    "loop_kept": "the authors' loop, caches kept",
    "loop_anew": "the authors' loop, every request reads all",
}


def table(figures: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """A table of two columns.

    Args:
        figures: As written to the JSON file.
        names: The models' names, by role.
    """
    machine, options = figures["machine"], figures["options"]
    shown = Table(
        title=f"{options['shapes']}, random weights, bfloat16, on {machine['device']}",
        caption=f"torch {machine['torch']}, transformers {machine['transformers']}, Python "
        f"{machine['python']}; {options['steps']} steps of {options['step_tokens']} tokens after a "
        f"prompt of {options['prompt_tokens']}, share {options['share']:g}, seed "
        f"{options['seed']}; medians of {options['rounds']} rounds",
    )
    shown.add_column("")
    shown.add_column("figure", justify="right")
    for name, value in (*_texts(figures, names), *_passes(figures, names)):
        shown.add_row(name, value)
    return shown


def _texts(figures: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    per_token = figures["token_seconds"]
    for arm, title in _ARMS.items():
        yield f"ms per token: {title.format(**names)}", _ms(per_token[arm])
    yield "small / large, per token", f"{figures['token_ratio']:.3f}"
    yield "rho: routed / ideal", f"{figures['rho']:.3f}"
    for arm in ("large", "loop_kept", "loop_anew"):
        against = _ARMS[arm].format(**names)
        yield f"routed against {against}", f"{per_token[arm] / per_token['routed']:.2f}x"
    for role, name in names.items():
        cost = figures["hand_over"][role]
        yield (
            f"hand-over to {name}, ms: reading a step + beginning a request",
            f"{_ms(cost['reading'])} + {_ms(cost['request'])}",
        )


def _passes(figures: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for role, one in figures["passes"].items():
        name = names[role]
        yield (
            f"{name}, ms of a decoding pass: submitted / computed",
            f"{_ms(one['submitted'])} / {_ms(one['computed'])}",
        )
        if one["launch_bound"] is not None:
            yield f"{name}, bound by launching kernels", "yes" if one["launch_bound"] else "no"
        yield f"{name}, ms to read its weights once", _ms(one["reading_weights"])
        for way, took in one["ways"].items():
            yield (
                f"{name}, ms per token of generate: {way}",
                took["failed"] if "failed" in took else _ms(took["token"]),
            )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
