"""Arguments and options of ``glimp calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations.cli.options import (
    AnswerFormat,
    FirstLargeSteps,
    Large,
    MaxTokens,
    MinP,
    Pair,
    PresencePenalty,
    RepetitionPenalty,
    Small,
    Temperature,
    TopK,
)

__all__ = ["calibrate"]


def calibrate(
    prompts: Annotated[
        str,
        typer.Option(
            help="Typical questions: a .jsonl file, a text file with one prompt on every line, "
            "gsm, or another task of `glimp bench`."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File for the result, used as threshold=calibrated:FILE.")
    ] = Path("calibration.json"),
    large_share: Annotated[
        float, typer.Option(help="Share of the steps that the large model should write.")
    ] = 0.25,
    held_out: Annotated[
        int,
        typer.Option(help="How many of the prompts are kept back to measure the share afterwards."),
    ] = 0,
    precision: Annotated[
        float, typer.Option(help="Largest half width of the share's 95 % interval.")
    ] = 0.05,
    column: Annotated[
        str, typer.Option(help="Column of a .jsonl file that has the prompts.")
    ] = "question",
    n: Annotated[
        int | None,
        typer.Option(help="Number of prompts; by default all of a file, or 60 of a task."),
    ] = None,
    format: AnswerFormat = None,
    small: Small = None,
    large: Large = None,
    pair: Pair = None,
    threshold: Annotated[float, typer.Option(help="First guess of the threshold, in nats.")] = 1.0,
    first_large_steps: FirstLargeSteps = 0,
    estimator: Annotated[
        str,
        typer.Option(help="How entropy is computed: auto, topk_renorm, topk_other or full."),
    ] = "auto",
    glimpse: Annotated[
        str,
        typer.Option(
            help="Which token's entropy decides: first_token, or skip_format for the first one "
            "that is not formatting."
        ),
    ] = "first_token",
    temperature: Temperature = None,
    top_k: TopK = None,
    min_p: MinP = None,
    presence_penalty: PresencePenalty = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling, of shuffling and of a task.")] = 0,
    max_tokens: MaxTokens = 2048,
    concurrency: Annotated[
        int, typer.Option(help="How many prompts are answered at the same time.")
    ] = 1,
) -> None:
    """Find the threshold at which the large model writes a given share of the steps."""
    from glimp_integrations.calibration.prompts import read
    from glimp_integrations.cli.calibrate import run

    run(
        read(prompts, n=n, column=column, seed=seed, style=format),
        out,
        large_share=large_share,
        held_out=held_out,
        precision=precision,
        concurrency=concurrency,
        small=small,
        large=large,
        pair=pair,
        threshold=threshold,
        first_large_steps=first_large_steps,
        entropy_estimator=estimator,
        glimpse=glimpse,
        temperature=temperature,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
    )
