"""The questions: three tasks on which the bundled models differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glimp_integrations.bench import Task, load_task
from glimp_integrations.bench.formats import Format

__all__ = ["TASKS", "Questions"]

_MIXTURE_A = json.loads(
    (Path(__file__).parents[1] / "results" / "mixture-a" / "manifest.json").read_text("utf-8")
)
_EXAMPLE = "5 + 3 = 8\n8 - 6 = 2"


@dataclass(frozen=True)
class Questions:
    """A task of ``glimp bench`` and how it is asked here.

    Attributes:
        family: Of reasoning-gym, with its options.
        n: Questions to report on.
        tuning: Questions to choose bounds on.
        settings: Of all arms.
        instruction: Text after each question; ``None``: that of the format ``short``.
    """

    family: str
    n: int
    tuning: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None

    def load(self, n: int, seed: int) -> Task:
        """``n`` questions of a seed."""
        if self.instruction is None:
            return load_task(self.family, n=n, seed=seed, format="short")
        # Graded as the format "steps" is: no mark is asked for, the last expression counts.
        task = load_task(self.family, n=n, seed=seed, format="steps")
        lines = Format("lines", self.instruction, None, lambda reply: None, marks=False)
        return replace(task, format=lines)


# A reply in paragraphs takes these models 130 to 250 tokens, which is minutes for all arms of one
# question. So a step is a line here.
TASKS = {
    "mixture-a": Questions(_MIXTURE_A["task_identity"]["family"], 100, 80, {"max_tokens": 48}),
    "gsm": Questions(
        "gsm_symbolic",
        24,
        24,
        {"max_tokens": 160, "step_delimiter": "\n"},
        "\n\nGive only the calculation, one short equation a line, and the answer last.",
    ),
    "sums": Questions(
        "chain_sum:min_terms=4,max_terms=4,max_digits=2",
        30,
        30,
        {"max_tokens": 100, "step_delimiter": "\n"},
        "\n\nWrite short equations with one operation each, one a line (for example:\n"
        f"{_EXAMPLE}\n), and nothing else. The last equation gives the answer.",
    ),
}
