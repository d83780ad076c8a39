"""Does a wanted share come out? Four tasks, three shares, on the bundled pair.

    python -m benchmarks.shares                       # all of it, more than an hour on two cores
    python -m benchmarks.shares --task gsm --share 0.25

Each task is answered from nothing learned, greedy, with ``large_share``. A boundary is a step that
was glimpsed at and decided on. ``by 60`` is the large model's share of the first 60 boundaries,
``after`` that of the later ones. A task ends after 120 of them; RAG and agents have fewer
questions than that, and ask them again in other words.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence

from rich.table import Table

from benchmarks.entropies import TASKS, Collecting, console
from glimp_integrations import LargeShare
from glimp_integrations.method.policy import WrittenStep
from glimp_integrations.method.priors import prior_of
from glimp_integrations.weights import LARGE, SMALL

ENOUGH = 60  # boundaries


class Counted(Collecting):
    """A wanted share, which also keeps who wrote the steps it decided on.

    Args:
        share: The wanted one, 0 to 1.
        known: Begin with what is known of the bundled small model.
        enough: Boundaries, after which nothing more is asked.
    """

    name = "large_share"

    def __init__(self, share: float, *, known: bool, enough: int) -> None:
        super().__init__(0.0, enough)
        self.policy = LargeShare(share, prior_of(SMALL.model) if known else None)
        self.large: list[bool] = []
        self.decide = self.policy.decide  # type: ignore[assignment]

    def learn(self, steps: Sequence[WrittenStep]) -> None:
        super().learn(steps)
        self.policy.learn(steps)
        self.large += [step.author == "large" for step in steps if step.entropy is not None]

    def forget(self) -> None:
        super().forget()
        self.policy.seen = {}
        self.large.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all")
    parser.add_argument("--share", type=float, action="append", help="default: 0.1, 0.25, 0.5")
    parser.add_argument("--n", type=int, default=150, help="questions of a task, at most")
    parser.add_argument("--boundaries", type=int, default=2 * ENOUGH, help="of a task, at least")
    parser.add_argument("--seed", type=int, default=11, help="of the questions")
    parser.add_argument("--unknown", action="store_true", help="begin with the first guess")
    options = parser.parse_args()
    shown = Table("task", "wanted", "boundaries", "by 60", "after", title="Share of large steps")
    for name in options.task or TASKS:
        for share in options.share or (0.1, 0.25, 0.5):
            policy = Counted(share, known=not options.unknown, enough=options.boundaries)
            TASKS[name](policy, options.n, options.seed)
            large = policy.large
            parts = large[:ENOUGH], large[ENOUGH:]
            cells = (f"{sum(part) / len(part):.3f}" if part else "" for part in parts)
            shown.add_row(name, f"{share:g}", str(len(large)), *cells)
    console.print(shown)
    console.print(
        f"at most {options.n} questions a task, seed {options.seed}; {SMALL.model} / "
        f"{LARGE.model} Q4_K_M, topk_renorm@20, greedy; {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores"
    )


if __name__ == "__main__":
    main()
