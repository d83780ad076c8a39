"""Arguments and options of ``glimp ask``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from glimp_integrations.cli.options import (
    AskPrices,
    Deadline,
    FirstLargeSteps,
    Large,
    LargeShare,
    MaxCost,
    MaxLargeTokens,
    MaxTokens,
    MinP,
    Pair,
    PresencePenalty,
    RepetitionPenalty,
    Route,
    Small,
    Strategy,
    Temperature,
    Threshold,
    TopK,
)

__all__ = ["ask"]


def ask(
    question: Annotated[
        str, typer.Argument(help="The question; '-' reads it from standard input.")
    ],
    small: Small = None,
    large: Large = None,
    pair: Pair = None,
    threshold: Threshold = None,
    large_share: LargeShare = None,
    first_large_steps: FirstLargeSteps = 0,
    route: Route = None,
    strategy: Strategy = "auto",
    temperature: Temperature = None,
    top_k: TopK = None,
    min_p: MinP = None,
    presence_penalty: PresencePenalty = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.")] = None,
    max_tokens: MaxTokens = 2048,
    max_large_tokens: MaxLargeTokens = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
    prices: AskPrices = None,
    trace: Annotated[str | None, typer.Option(help="Save the trace to this JSON file.")] = None,
) -> None:
    """Answer a question and show each step as it is written, coloured by its author."""
    from glimp_integrations.cli.ask import run

    run(
        sys.stdin.read() if question == "-" else question,
        trace,
        prices,
        small=small,
        large=large,
        pair=pair,
        threshold=threshold,
        large_share=large_share,
        first_large_steps=first_large_steps,
        route=route,
        strategy=strategy,
        temperature=temperature,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
        max_large_tokens=max_large_tokens,
        max_cost=max_cost,
        deadline=deadline,
    )
