"""Does routing pay for this pair and this task? Arms, tasks, runs, statistics, tables, plots.

Importing this package loads no framework, no statistics and no plotting; see
``docs/how-to/benchmark.md``.
"""

from __future__ import annotations

from glimp_integrations.bench.arms import Arm, parse_arms
from glimp_integrations.bench.load import load_task
from glimp_integrations.bench.run import BenchPlan, arun, run
from glimp_integrations.bench.store import Store
from glimp_integrations.bench.tasks import Grade, Item, Task

__all__ = [
    "Arm",
    "BenchPlan",
    "Grade",
    "Item",
    "Store",
    "Task",
    "arun",
    "load_task",
    "parse_arms",
    "run",
]
