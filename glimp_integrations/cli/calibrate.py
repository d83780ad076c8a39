"""``glimp calibrate``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glimp_integrations.calibrated_threshold import PREFIX, Calibration
from glimp_integrations.calibration.fit import Prompt, calibrate
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter

__all__ = ["run"]


def run(
    prompts: list[Prompt],
    out: Path,
    *,
    large_share: float,
    held_out: int,
    precision: float,
    concurrency: int,
    seed: int,
    **options: Any,
) -> None:
    """Calibrate, save the result, and print it.

    Args:
        prompts: The questions; they are shuffled.
        out: The calibration file. A second file, with ``.runs.jsonl`` added to its name, keeps the
            entropies of finished prompts.
        large_share: The share of the steps that the large model should write.
        held_out: How many of the prompts are only used to measure the share.
        precision: The largest half width of the share's interval.
        concurrency: How many prompts are answered at the same time.
        seed: The seed of the shuffling.
        **options: Settings of the router; ``None``: the default.
    """
    if held_out < 0 or held_out >= len(prompts):
        raise ConfigError(
            f"held_out is {held_out} of {len(prompts)} prompts: some must be left to calibrate on"
        )
    random.Random(seed).shuffle(prompts)  # noqa: S311
    used, kept_back = prompts[: len(prompts) - held_out], prompts[len(prompts) - held_out :]
    runs = out.with_name(out.name + ".runs.jsonl")
    given = {name: value for name, value in options.items() if value is not None}
    with GlimpRouter(**given) as router, _progress() as progress:
        calibration = calibrate(
            router,
            used,
            large_share,
            held_out=kept_back,
            precision=precision,
            runs=runs,
            concurrency=concurrency,
            progress=progress,
        )
    calibration.save(out)
    _print(calibration, out)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for every round."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left()
    with Progress(*columns) as bars:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield update


def _print(calibration: Calibration, out: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    low, high = calibration.threshold_interval
    console.print(
        f"threshold [bold]{calibration.threshold:.3f}[/] nats (95 %: {low:.3f} to {high:.3f}) "
        f"sends {calibration.share:.1%} of the steps to the large model "
        f"({calibration.share_interval[0]:.1%} to {calibration.share_interval[1]:.1%}; "
        f"{calibration.boundaries} boundaries of {calibration.prompts} prompts)"
    )
    if calibration.held_out_share is not None and calibration.held_out_interval is not None:
        low, high = calibration.held_out_interval
        console.print(f"held out: {calibration.held_out_share:.1%} ({low:.1%} to {high:.1%})")
    conditions = calibration.conditions
    weights = f" ({conditions.quantisation})" if conditions.quantisation else ""
    console.print(
        f"{conditions.small_model}{weights} / {conditions.large_model}, {conditions.estimator}"
        f"{'' if conditions.k is None else f'@{conditions.k}'}, {calibration.date}",
        style="dim",
        markup=False,
    )
    console.print(f'threshold="{PREFIX}{out}"', markup=False)
