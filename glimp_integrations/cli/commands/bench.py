"""Arguments and options of ``glimp bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations.cli.options import (
    AnswerFormat,
    Large,
    MaxTokens,
    MinP,
    Pair,
    PresencePenalty,
    Prices,
    RepetitionPenalty,
    Small,
    Strategy,
    TopK,
)

__all__ = ["bench"]


def bench(
    task: Annotated[
        str,
        typer.Option(
            help="The questions: a puzzle family of reasoning-gym, a .jsonl file of questions and "
            "answers, a dataset (aime24, aime25, gpqa-diamond, math-500, hf:DATASET[:CONFIG], "
            "hf:FOLDER), or MODULE:FUNCTION."
        ),
    ] = "gsm_symbolic",
    n: Annotated[
        int | None,
        typer.Option(
            help="Number of questions; by default all of a file or dataset, or 30 of a family."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions and of sampling.")] = 7,
    arms: Annotated[
        str,
        typer.Option(
            help="What is compared: small, large, routed or routed@NATS, and the random baseline, "
            "random or random@SHARE. Settings may follow an arm as :KEY=VALUE,..., such as "
            "routed:large_share=0.25 or routed:policy=MODULE:NAME."
        ),
    ] = "small,large,routed,random",
    thresholds: Annotated[
        str, typer.Option(help="Thresholds of the arm routed, in nats, e.g. 0.5,1.0,1.5.")
    ] = "1.0",
    small: Small = None,
    large: Large = None,
    pair: Pair = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results. A bench that was stopped goes on in its folder."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Run nothing; write the table and the plots of this folder again."),
    ] = None,
    format: AnswerFormat = None,
    question_column: Annotated[
        str | None,
        typer.Option(
            help="Column of a .jsonl file or dataset that has the questions; by default question, "
            "or that of a known dataset."
        ),
    ] = None,
    answer_column: Annotated[
        str | None,
        typer.Option(help="Column that has the right answers; by default answer, likewise."),
    ] = None,
    choice_columns: Annotated[
        str,
        typer.Option(
            help="Columns of a dataset that have the wrong choices, separated by commas, where its "
            "questions are multiple choice."
        ),
    ] = "",
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a dataset; by default that of a known dataset, the only one, or test."
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Revision of a dataset on the hub; by default the one pinned for a known dataset, "
            "else the newest."
        ),
    ] = None,
    max_tokens: MaxTokens = 1024,
    max_thinking_tokens: Annotated[
        int,
        typer.Option(
            help="Largest number of tokens in the reasoning of models that think in tags."
        ),
    ] = 8192,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature. By default what the makers of the pair advise, else 0, "
            "which is greedy decoding."
        ),
    ] = None,
    top_k: TopK = None,
    min_p: MinP = None,
    presence_penalty: PresencePenalty = None,
    repetition_penalty: RepetitionPenalty = None,
    strategy: Strategy = "auto",
    concurrency: Annotated[
        int,
        typer.Option(
            help="How many questions are answered at the same time; with more than 1, times "
            "include waiting."
        ),
    ] = 1,
    measure_every: Annotated[
        int,
        typer.Option(
            help="Measure the models' speed again after this many answers; 0: never (then there "
            "is no rho)."
        ),
    ] = 40,
    repeat: Annotated[
        int,
        typer.Option(
            help="How often every arm answers every question, each time with another seed; the "
            "table has the mean."
        ),
    ] = 1,
    prices: Prices = None,
) -> None:
    """Compare the small model, the large model, routing and a random baseline on one task."""
    from glimp_integrations.cli import bench as command

    if report is not None:
        command.report(report, prices)
        return
    command.start(
        task=task,
        n=n,
        seed=seed,
        arms=arms,
        thresholds=thresholds,
        small=small,
        large=large,
        pair=pair,
        out=out or Path(f"bench-{Path(task).stem.replace(':', '-')}"),
        format=format,
        question_column=question_column,
        answer_column=answer_column,
        choice_columns=choice_columns,
        split=split,
        revision=revision,
        settings={
            "temperature": temperature,
            "top_k": top_k,
            "min_p": min_p,
            "presence_penalty": presence_penalty,
            "repetition_penalty": repetition_penalty,
            "max_tokens": max_tokens,
            "seed": seed,
            "max_thinking_tokens": max_thinking_tokens,
            "strategy": strategy,
        },
        concurrency=concurrency,
        measure_every=measure_every,
        repeat=repeat,
        prices=prices,
    )
