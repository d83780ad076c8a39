"""Many tasks of reasoning-gym with one loaded pair, and one table of them.

    python -m benchmarks.evidence run --out screen --tasks chain_sum gcd lcm --n 30 --seed 101 \
        --arms small,large
    python -m benchmarks.evidence table screen
    python -m benchmarks.evidence run --out tune --tasks products:max_digits=2 --n 100 --seed 101 \
        --format short --arms routed@50,large
    python -m benchmarks.evidence thresholds tune --time 0.72

What ``glimp bench`` does for one task, for several: a folder each, which goes on where it was
stopped. On two CPU cores several questions at a time gain nothing, so one is asked at a time.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console

from benchmarks.replay import Replay, replay
from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.bench import BenchPlan, Store, load_task, parse_arms, run
from glimp_integrations.bench.progress import Bars
from glimp_integrations.bench.run import manifest_of
from glimp_integrations.bench.summary import ArmFigures, Summary, summarise
from glimp_integrations.weights import LARGE, SMALL, TINY, ensure

SMALLS = {"qwen2.5-coder-0.5b": SMALL, "smollm2-135m": TINY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    asking = commands.add_parser("run", help="answer, or go on")
    asking.add_argument("--out", type=Path, required=True, help="one folder a task comes in here")
    asking.add_argument("--tasks", nargs="+", required=True, help="as of glimp bench")
    asking.add_argument("--n", type=int, default=30)
    asking.add_argument("--seed", type=int, default=101)
    asking.add_argument("--arms", default="small,large")
    asking.add_argument("--format", default="boxed")
    asking.add_argument("--max-tokens", type=int, default=400)
    asking.add_argument("--concurrency", type=int, default=1)
    asking.add_argument("--measure-every", type=int, default=0, help="answers; 0: no rho")
    asking.add_argument("--small", choices=list(SMALLS), default=next(iter(SMALLS)))
    asking.set_defaults(do=answer)
    showing = commands.add_parser("table", help="one table of all folders")
    showing.add_argument("out", type=Path, nargs="+")
    showing.set_defaults(do=table)
    choosing = commands.add_parser("thresholds", help="what all thresholds would have done")
    choosing.add_argument("out", type=Path, nargs="+")
    choosing.add_argument("--time", type=float, default=0.72, help="of the large model's, at most")
    choosing.set_defaults(do=thresholds)
    options = parser.parse_args()
    options.do(options)


def answer(options: argparse.Namespace) -> None:
    paths = ensure(SMALLS[options.small]), ensure(LARGE)
    small, large = (
        LlamaCppBackend(
            path,
            prompt_cache_mib=0,
            parallel=options.concurrency,
            context_window=4096 * options.concurrency,
        )
        for path in paths
    )
    settings = {"temperature": 0.0, "max_tokens": options.max_tokens}
    with GlimpRouter(small, large) as router:
        for name in options.tasks:
            try:
                task = load_task(name, n=options.n, seed=options.seed, format=options.format)
            except ConfigError as error:
                Console(stderr=True).print(f"{name} is left out: {error}", markup=False)
                continue
            plan = BenchPlan(
                task, parse_arms(options.arms), settings, options.concurrency, options.measure_every
            )
            folder = options.out / re.sub(r"[^\w.:=,+*-]+", "", name)
            with Store(folder, manifest_of(plan, router)) as store, Bars() as bars:
                run(plan, router, store, bars)
    for backend in (small, large):
        backend.close()


def table(options: argparse.Namespace) -> None:
    print("| task | arm | n | right, 95 % | against large | s | tokens | large steps |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for folder in _folders(options.out):
        summary = summarise(Store(folder))
        for arm in summary.arms:
            print(_row(folder.name, arm, summary))


def thresholds(options: argparse.Namespace) -> None:
    """For replies of one step (:mod:`benchmarks.replay`): one row for every arm that glimpses."""
    print(
        "| task | arm | n | small | large | only large | AUC of H | threshold | share | right "
        "| random | time |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for folder in _folders(options.out):
        summary = summarise(Store(folder))
        large = summary.arm("large")
        for arm in summary.arms:
            if arm.kind == "routed" and not arm.large_tokens and large is not None:
                try:
                    replayed = replay(arm.answers, large.answers)
                except ValueError:
                    continue
                print(_threshold_row(f"{folder.name} | {arm.name}", replayed, options.time))


def _threshold_row(name: str, replayed: Replay, time: float) -> str:
    best = replayed.within(time)
    auc = "" if replayed.auc is None else f"{replayed.auc:.2f}"
    return (
        f"| {name} | {replayed.n} | {replayed.small:.0%} | {replayed.large:.0%} "
        f"| {replayed.only_large / replayed.n:.0%} | {auc} | {best.threshold:.3g} "
        f"| {best.share:.0%} | {best.right:.0%} | {best.at_random:.0%} | {best.time:.2f} |"
    )


def _folders(outs: list[Path]) -> list[Path]:
    folders = [folder for out in outs for folder in sorted(out.iterdir())]
    return [folder for folder in folders if (folder / "manifest.json").exists()]


def _row(task: str, arm: ArmFigures, summary: Summary) -> str:
    if not arm.n:
        return f"| {task} | {arm.name} | 0 | | | | | |"
    low, value, high = (100 * x for x in (arm.accuracy.low, arm.accuracy.value, arm.accuracy.high))
    against_large = summary.between(arm.name, "large")
    against = ""
    if against_large is not None and against_large.n:
        gap, time = against_large.right.difference, summary.time_of(against_large)
        against = (
            f"{100 * gap.value:+.0f} ({100 * gap.low:+.0f} to {100 * gap.high:+.0f}), "
            f"p {against_large.right.p:.2g}; {time.value:.2f}x time"
        )
    cells = [
        task,
        arm.name,
        str(arm.n),
        f"{value:.0f} % ({low:.0f}-{high:.0f})",
        against,
        f"{summary.seconds_of(arm):.1f}",
        f"{(arm.small_tokens + arm.large_tokens) / arm.n:.0f}",
        "" if arm.step_share is None else f"{100 * arm.step_share:.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
