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
    """Calibrate, store, and say what came out.

    Args:
        prompts: Questions.
        out: The calibration file; beside it, ``.runs.jsonl``, what finished prompts said.
        large_share: The wanted share of large steps.
        held_out: So many of the prompts, after shuffling, only measure.
        precision: Half the width of the share's interval.
        concurrency: Prompts at a time.
        seed: Of the shuffling.
        **options: Settings of the router.
    """
    if held_out < 0 or held_out >= len(prompts):
        raise ConfigError(
            f"held_out is {held_out} of {len(prompts)} prompts: some must be left to calibrate on"
        )
    random.Random(seed).shuffle(prompts)  # noqa: S311
    used, left = prompts[: len(prompts) - held_out], prompts[len(prompts) - held_out :]
    runs = out.with_name(out.name + ".runs.jsonl")
    with GlimpRouter(**options) as router, _progress() as progress:
        found = calibrate(
            router,
            used,
            large_share,
            held_out=left,
            precision=precision,
            runs=runs,
            concurrency=concurrency,
            progress=progress,
        )
    found.save(out)
    _tell(found, out)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for every round."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left()
    with Progress(*columns) as bars:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield told


def _tell(found: Calibration, out: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    low, high = found.threshold_interval
    console.print(
        f"threshold [bold]{found.threshold:.3f}[/] nats (95 %: {low:.3f} to {high:.3f}) sends "
        f"{found.share:.1%} of the steps to the large model "
        f"({found.share_interval[0]:.1%} to {found.share_interval[1]:.1%}; "
        f"{found.boundaries} boundaries of {found.prompts} prompts)"
    )
    if found.held_out_share is not None and found.held_out_interval is not None:
        low, high = found.held_out_interval
        console.print(f"held out: {found.held_out_share:.1%} ({low:.1%} to {high:.1%})")
    belongs = found.conditions
    weights = f" ({belongs.quantisation})" if belongs.quantisation else ""
    console.print(
        f"{belongs.small_model}{weights} / {belongs.large_model}, {belongs.estimator}"
        f"{'' if belongs.k is None else f'@{belongs.k}'}, {found.date}",
        style="dim",
        markup=False,
    )
    console.print(f'threshold="{PREFIX}{out}"', markup=False)
