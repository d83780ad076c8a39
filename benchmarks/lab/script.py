"""What the laboratory's models write: chains with a given share of hard steps."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from glimp_integrations.trace.files import load, parse
from glimp_integrations.trace.trace import Trace

__all__ = ["OPENED", "Script", "made_up", "recorded"]

OPENED = "<|im_start|>assistant\n<think>"
EASY, HARD = 0.2, 2.0


@dataclass(frozen=True)
class Script:
    """One conversation's text as tokens, and H in nats where a step begins.

    Attributes:
        tokens: Texts, one a token; the last is empty (end of sequence).
        entropies: H at every place, shape as ``tokens``.
    """

    tokens: tuple[str, ...]
    entropies: tuple[float, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)


def made_up(
    seed: int, *, steps: int, step_tokens: int, large_share: float, answer_tokens: int
) -> Script:
    """A chain whose steps are hard with a given probability, independently."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, no secret
    tokens: list[str] = []
    entropies: list[float] = []
    for step in range(steps):
        hard = dice.random() < large_share
        # Another word in every step: two equal steps would end the chain.
        words = [f"s{seed}.{step}"] + [f" w{i}" for i in range(step_tokens - 2)] + [".\n\n"]
        tokens += words
        entropies += [HARD if hard else EASY] + [EASY] * (len(words) - 1)
    tokens += ["</think>", "\n\n", *(f" a{i}" for i in range(answer_tokens)), ""]
    entropies += [EASY] * (len(tokens) - len(entropies))
    return Script(tuple(tokens), tuple(entropies))


def recorded(path: Path, threshold: float, *, answer_tokens: int) -> Script:
    """One long chain of the steps a real pair wrote: their lengths, and who wrote them.

    Args:
        path: A file of traces, as ``glimp trace`` reads them; their steps follow one another.
        threshold: Nats of the laboratory's routers.
        answer_tokens: Of the made-up answer after them.
    """
    tokens: list[str] = []
    entropies: list[float] = []
    for number, saved in enumerate(load(path)[0]):
        for step in parse(saved.trace, Trace, saved.place).steps:
            if step.entropy is None or not step.text.strip():
                continue
            # Other problems may have equal steps, and two of them would end the chain.
            words = _pieces(f"{number}.{step.index} {step.text.strip()}\n\n", step.tokens)
            tokens += words
            hard = step.author == "large"
            # Not 0: a certain token has no others beside it, as real models never show.
            entropies += [threshold + 1.0 if hard else EASY] + [EASY] * (len(words) - 1)
    tokens += ["</think>", "\n\n", *(f" a{i}" for i in range(answer_tokens)), ""]
    entropies += [EASY] * (len(tokens) - len(entropies))
    return Script(tuple(tokens), tuple(entropies))


def _pieces(text: str, count: int) -> list[str]:
    """A text in so many pieces, its delimiter in the last."""
    body = text.rstrip("\n")
    end = text[len(body) :]
    count = max(1, min(count, len(body)))
    edges = [round(i * len(body) / count) for i in range(count + 1)]
    words = [body[a:b] for a, b in itertools.pairwise(edges)]
    return [*words[:-1], words[-1] + end]
