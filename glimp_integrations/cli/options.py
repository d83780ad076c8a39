"""Options that several commands have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "AnswerFormat",
    "Large",
    "MaxTokens",
    "Role",
    "Small",
    "Strategy",
    "Temperature",
    "Threshold",
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
Threshold = Annotated[
    str,
    typer.Option(
        help="Entropy in nats above which the large model writes a step, or calibrated:FILE."
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        help="How requests are made: auto, two_request, fused, overlap or in_process. It changes "
        "time, not what is written."
    ),
]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy decoding.")]
MaxTokens = Annotated[int, typer.Option(help="Largest number of tokens in the answer.")]
AnswerFormat = Annotated[
    str,
    typer.Option(help="How the answer is asked for: boxed, tags, gym, steps, short or plain."),
]
