"""Which signal should decide who writes the next step? All of them, next to chance.

    python -m benchmarks.signals --out signals               # everything, or goes on
    python -m benchmarks.signals --out signals --task gsm --n 60
    python -m benchmarks.signals --out signals --table       # only prints what was measured

For each task, bounds are chosen on the questions of one seed, so that the large model writes the
same share of steps whatever decides (``--share``). Then all ways answer the questions of another
seed side by side, greedy, on the bundled pair: each model alone, a random choice at that share,
H, the margin, H over the first 4 tokens, the two triggers of TrigReason that look back, a wanted
share (``large_share``, which is not tuned), and a first step by the large model, alone and with H.
What comes out at another share has a random arm of its own.

One pass over the tuning questions records all signals. The margin needs probabilities, which
llama.cpp sends; how sure the small model was is known with the strategy ``fused`` only, and the
two arms that look back use that. A signal that never fires on a task is not run, nor one that
always does: they are the small and the large model alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.signals.figures import Way, control_share, figures, markdown, read, step_share
from benchmarks.signals.policies import SIGNALS, starts
from benchmarks.signals.tasks import TASKS
from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.bench import BenchPlan, Store, Task, parse_arms, run
from glimp_integrations.bench.progress import Bars
from glimp_integrations.bench.run import manifest_of
from glimp_integrations.bench.summary import Summary, summarise
from glimp_integrations.weights import LARGE, SMALL, ensure
from glimp_integrations.whole_files import write_whole

TUNING_SEED, SEED = 404, 505


@dataclass(frozen=True)
class Measurement:
    """One task on one pair, in one folder.

    Args:
        router: Of the pair.
        folder: A folder for the tuning pass and one for the report come in here.
        settings: Of all arms.
        share: Of steps by the large model, 0 to 1.
    """

    router: GlimpRouter
    folder: Path
    settings: dict[str, object]
    share: float

    def ways(self, tuning: Task) -> list[Way]:
        """What is compared, with bounds from the tuning questions."""
        policy = "benchmarks.signals.policies:Recording"
        arm = f"routed:policy={policy},policy.share={self.share!r},strategy=fused"
        summary = self._answered("tuning", tuning, [arm])
        figure = summary.arm(arm)
        asked = {item.id for item in tuning.items}
        answers = figure.answers if figure is not None else ()
        recorded = list(starts([a.trace for a in answers if a.item in asked]))
        if not recorded:
            raise ConfigError(f"{self.folder / 'tuning'}: no question was answered, see above")
        ways = [
            Way("small alone", "small"),
            Way("large alone", "large"),
            Way("at random", f"random@{self.share:g}"),
            Way("a wanted share (`large_share`)", f"routed:large_share={self.share!r}"),
        ]
        for signal in SIGNALS:
            found = signal.tuned(recorded, self.share)
            if not found.decides:
                ways.append(Way(signal.name, None, None, found))
                continue
            bound = found.bound
            (made,) = parse_arms(signal.arm(0.0 if bound is None else bound))
            shown = None if bound is None else signal.shown(bound)
            ways.append(Way(signal.name, made.name, shown, found))
        return ways

    def report(self, task: Task, ways: Sequence[Way]) -> Summary:
        """All ways answer the questions; then the random arms of those with another share."""
        arms = [way.arm for way in ways if way.arm is not None]
        summary = self._answered("report", task, arms)
        found = [arm for arm in summary.arms if arm.name in arms and arm.kind == "routed"]
        shares = {control_share(step_share(arm), self.share) for arm in found if arm.n}
        more = [f"random@{share:g}" for share in shares if share not in (None, self.share)]
        return self._answered("report", task, sorted(more)) if more else summary

    def _answered(self, part: str, task: Task, arms: Sequence[str]) -> Summary:
        plan = BenchPlan(task, parse_arms(",".join(arms)), self.settings, measure_every=0)
        folder = self.folder / part
        with Store(folder, manifest_of(plan, self.router)) as store, Bars() as bars:
            run(plan, self.router, store, bars)
        return summarise(Store(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all")
    parser.add_argument("--share", type=float, default=0.3, help="of steps by the large model")
    parser.add_argument("--n", type=int, help="questions reported on; default: by task")
    parser.add_argument("--tuning", type=int, help="questions to choose bounds on; likewise")
    parser.add_argument("--table", action="store_true", help="print the table of --out only")
    options = parser.parse_args()
    if not options.table:
        backends = [LlamaCppBackend(ensure(f), prompt_cache_mib=0, parallel=1) for f in PAIR]
        with GlimpRouter(*backends) as router:
            for name in options.task or TASKS:
                measure(name, router, options)
        for backend in backends:
            backend.close()
    print(markdown(read(options.out, list(TASKS))))


PAIR = (SMALL, LARGE)


def measure(name: str, router: GlimpRouter, options: argparse.Namespace) -> None:
    """Tune, answer and write the figures of a task."""
    questions = TASKS[name]
    n, tuning = options.n or questions.n, options.tuning or options.n or questions.tuning
    settings = {"temperature": 0.0, **questions.settings}
    measurement = Measurement(router, options.out / name, settings, options.share)
    ways = measurement.ways(questions.load(tuning, TUNING_SEED))
    summary = measurement.report(questions.load(n, SEED), ways)
    about = {
        "task": name,
        "n": n,
        "seed": SEED,
        "tuning_n": tuning,
        "tuning_seed": TUNING_SEED,
        "family": questions.family,
        "settings": settings,
        "models": [file.model for file in PAIR],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }
    data = figures(summary, ways, options.share, about)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(options.out / f"{name}.json", text.encode())


if __name__ == "__main__":
    main()
