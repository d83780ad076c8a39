"""Options that several commands have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "AnswerFormat",
    "AskPrices",
    "Deadline",
    "FirstLargeSteps",
    "Large",
    "LargeShare",
    "MaxCost",
    "MaxLargeTokens",
    "MaxTokens",
    "MinP",
    "Pair",
    "PresencePenalty",
    "Prices",
    "RepetitionPenalty",
    "Role",
    "Route",
    "Small",
    "Strategy",
    "Temperature",
    "Threshold",
    "TopK",
]


class Role(StrEnum):
    """The part that models should play: one of the two, or both together."""

    small = "small"
    large = "large"
    pair = "pair"


Small = Annotated[
    str | None,
    typer.Option(
        help="Small model: openai:NAME@URL, hf:NAME_OR_FOLDER or llamacpp:FILE. "
        "Without both models: the bundled ones."
    ),
]
Large = Annotated[str | None, typer.Option(help="Large model, in the same form.")]
Pair = Annotated[
    str | None,
    typer.Option(
        help="Both models by the name of a pair, such as qwen3-0.6b+8b; `glimp pull --list` shows "
        "all of them."
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        help="Entropy in nats above which the large model writes a step, or calibrated:FILE; 1.0 "
        "if there is no --large-share."
    ),
]
LargeShare = Annotated[
    str | None,
    typer.Option(
        help="Instead of a threshold: the share of steps that the large model is to write, between "
        "0 and 1, or calibrated:FILE."
    ),
]
FirstLargeSteps = Annotated[
    int, typer.Option(help="So many steps at the start of a reply are the large model's.")
]
MaxLargeTokens = Annotated[
    int | None,
    typer.Option(help="Most tokens of the large model; then the small one writes on."),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        help="Most that the reply may cost, in the currency of --prices; near it, the small model "
        "writes on, then the thinking is closed and answered."
    ),
]
Deadline = Annotated[
    float | None, typer.Option(help="Most seconds that the reply may take, likewise.")
]
Route = Annotated[
    str | None,
    typer.Option(
        help="always, or when_it_pays: the large model answers alone where that takes less."
    ),
]
Prices = Annotated[
    str | None,
    typer.Option(help="Prices per million tokens: SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT, or JSON."),
]
AskPrices = Annotated[
    str | None,
    typer.Option(
        help="Prices per million tokens: SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT, or JSON; auto: "
        "those that hosted services charge."
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        help="How requests are made: auto, two_request, fused, overlap or in_process. It changes "
        "time, not what is written."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Sampling temperature; 0 is greedy decoding. By default what the makers of the pair "
        "advise, else 0.6."
    ),
]
TopK = Annotated[
    int | None, typer.Option(help="Sample from so many of the likeliest tokens; by default all.")
]
MinP = Annotated[
    float | None,
    typer.Option(help="Sample from tokens at least so likely, relative to the likeliest."),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(help="Against loops: taken off the logit of each token written already, -2 to 2."),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(help="Against loops: divides the logit of each token in the text already; 1: no."),
]
MaxTokens = Annotated[int, typer.Option(help="Largest number of tokens in the answer.")]
AnswerFormat = Annotated[
    str | None,
    typer.Option(
        help="How the answer is asked for: boxed, card, letter, tags, gym, steps, short or plain; "
        "by default as a known dataset needs it, else boxed."
    ),
]
