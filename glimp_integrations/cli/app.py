"""``glimp``: the entry point. One file per command; heavy imports wait for the command."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations._version import __version__
from glimp_integrations.errors import GlimpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="glimp",
    help="Two models write one chain of thought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glimp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Two models write one chain of thought."""


class Role(StrEnum):
    """What endpoints are to be: one of the two models, or both together."""

    small = "small"
    large = "large"
    pair = "pair"


Small = Annotated[str | None, typer.Option(help="Small model, e.g. openai:NAME@http://host/v1.")]
Large = Annotated[str | None, typer.Option(help="Large model, likewise.")]
Threshold = Annotated[
    str,
    typer.Option(help="Nats, or calibrated:FILE; above it the large model writes."),
]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads it from input.")],
    small: Small = None,
    large: Large = None,
    threshold: Threshold = "1.0",
    strategy: Annotated[str, typer.Option(help="auto, two_request, fused or overlap.")] = "auto",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.6,
    seed: Annotated[int | None, typer.Option(help="Sampling seed.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 2048,
    trace: Annotated[str | None, typer.Option(help="Save the trace to this file (JSON).")] = None,
) -> None:
    """Answer a question; steps appear as they are written, coloured by author."""
    from glimp_integrations.cli.ask import run

    run(
        sys.stdin.read() if question == "-" else question,
        trace,
        small=small,
        large=large,
        threshold=threshold,
        strategy=strategy,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


@app.command()
def pull() -> None:
    """Fetch the bundled models (1.6 GB, once)."""
    from glimp_integrations.cli.pull import run

    run()


@app.command()
def check(
    role: Annotated[
        Role,
        typer.Argument(help="What for; small needs log-probabilities, pair measures both."),
    ],
    models: Annotated[
        list[str], typer.Argument(help="Model strings, e.g. openai:NAME@http://host:8000/v1.")
    ],
) -> None:
    """Examine endpoints: can they continue exact text, be glimpsed at, and how fast are both?"""
    from glimp_integrations.cli.check import run

    run(models, role.value)


@app.command()
def calibrate(
    prompts: Annotated[
        str,
        typer.Option(help="A .jsonl file, a text file (a prompt a line), gsm, a task of bench."),
    ],
    out: Annotated[Path, typer.Option(help="Where the calibration goes.")] = Path(
        "calibration.json"
    ),
    large_share: Annotated[float, typer.Option(help="Wanted share of the large model.")] = 0.25,
    held_out: Annotated[int, typer.Option(help="Prompts that only measure the share.")] = 0,
    precision: Annotated[float, typer.Option(help="Half the share's 95 % interval.")] = 0.05,
    column: Annotated[str, typer.Option(help="Of a .jsonl file.")] = "question",
    n: Annotated[
        int | None, typer.Option(help="Prompts; default all of a file, 60 of gsm.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="Of gsm: boxed, tags, gym, steps, short or plain, as in bench.")
    ] = "boxed",
    small: Small = None,
    large: Large = None,
    threshold: Annotated[float, typer.Option(help="First guess, in nats.")] = 1.0,
    estimator: Annotated[str, typer.Option(help="auto, topk_renorm, topk_other, full.")] = "auto",
    glimpse: Annotated[str, typer.Option(help="first_token or skip_format.")] = "first_token",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Of sampling, shuffling and gsm.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 2048,
    concurrency: Annotated[int, typer.Option(help="Prompts at a time.")] = 1,
) -> None:
    """Find the threshold that sends a wanted share of the steps to the large model."""
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
        threshold=threshold,
        entropy_estimator=estimator,
        glimpse=glimpse,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


@app.command()
def bench(
    task: Annotated[
        str, typer.Option(help="A reasoning-gym family, a .jsonl file, or MODULE:FUNCTION.")
    ] = "gsm_symbolic",
    n: Annotated[int | None, typer.Option(help="Questions; default 30, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the questions and of sampling.")] = 7,
    arms: Annotated[
        str, typer.Option(help="small, large, routed[@NATS], random[@SHARE], each :KEY=VALUE,...")
    ] = "small,large,routed,random",
    thresholds: Annotated[str, typer.Option(help="Nats, for routed; e.g. 0.5,1.0,1.5.")] = "1.0",
    small: Small = None,
    large: Large = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; the same one goes on.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Only make table and plots of this folder again.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="How to ask for answers: boxed, tags, gym, steps, short or plain.")
    ] = "boxed",
    question_column: Annotated[str, typer.Option(help="Of a .jsonl file.")] = "question",
    answer_column: Annotated[str, typer.Option(help="Of a .jsonl file.")] = "answer",
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 1024,
    max_thinking_tokens: Annotated[int, typer.Option(help="For models that think in tags.")] = 8192,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    strategy: Annotated[str, typer.Option(help="auto, two_request, fused or overlap.")] = "auto",
    concurrency: Annotated[int, typer.Option(help="Items at a time; above 1 no fair times.")] = 1,
    measure_every: Annotated[
        int, typer.Option(help="Answers between measurements of the pair's speed; 0: no rho.")
    ] = 40,
    prices: Annotated[
        str | None,
        typer.Option(help="Per million tokens: SMALL_IN,SMALL_OUT,LARGE_IN,LARGE_OUT, or JSON."),
    ] = None,
) -> None:
    """Benchmark small-only, large-only, routed and randomly routed runs on one task."""
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
        out=out or Path(f"bench-{Path(task).stem.replace(':', '-')}"),
        format=format,
        question_column=question_column,
        answer_column=answer_column,
        settings={
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
            "max_thinking_tokens": max_thinking_tokens,
            "strategy": strategy,
        },
        concurrency=concurrency,
        measure_every=measure_every,
        prices=prices,
    )


@app.command()
def trace(
    file: Annotated[str, typer.Argument(help="A saved trace, or JSON lines with many of them.")],
    html: Annotated[
        str | None, typer.Option(help="Write a page to this file; '-' is standard output.")
    ] = None,
    number: Annotated[int | None, typer.Option(help="Which of many traces, from 1.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="One line a step.")] = False,
) -> None:
    """Show a saved trace: who wrote which step, H, tokens, seconds, cost."""
    from glimp_integrations.cli.trace import run

    run(file, html, number, title, brief)


def main() -> None:
    """Run the command line; errors of ours are one red line, not a traceback."""
    try:
        app()
    except GlimpError as error:
        typer.secho(f"glimp: {error}", fg="red", err=True)
        raise SystemExit(1) from None
