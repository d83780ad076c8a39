"""``glimp``: the entry point. One file per command; heavy imports wait for the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations._version import __version__
from glimp_integrations.cli.options import (
    AnswerFormat,
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
    Prices,
    RepetitionPenalty,
    Role,
    Route,
    Small,
    Strategy,
    Temperature,
    Threshold,
    TopK,
)
from glimp_integrations.errors import GlimpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="glimp",
    help="Route every reasoning step to a small or a large language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"glimp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Route every reasoning step to a small or a large language model."""


@app.command()
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


@app.command()
def pull(
    pair: Annotated[
        str | None,
        typer.Argument(
            help="Name of the pair; by default the one of GLIMP_PAIR, else the bundled models "
            "(1.6 GB)."
        ),
    ] = None,
    list: Annotated[
        bool, typer.Option("--list", help="Download nothing; show all pairs and what they take.")
    ] = False,
) -> None:
    """Download a pair of models once, or list the pairs."""
    from glimp_integrations.cli import pull as command

    if list:
        command.list_pairs()
    else:
        command.run(pair)


@app.command()
def check(
    role: Annotated[
        Role,
        typer.Argument(
            help="The part each model should play: small, large, or pair for a small and a large "
            "one, whose speed is measured, too."
        ),
    ],
    models: Annotated[
        list[str] | None, typer.Argument(help="Models, e.g. openai:NAME@http://host:8000/v1.")
    ] = None,
    pair: Pair = None,
) -> None:
    """Check whether servers can be used as the small or the large model, and how fast they are."""
    from glimp_integrations.cli.check import run

    run(models or [], role.value, pair)


@app.command()
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


@app.command()
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


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with all that the options below say, named with underscores. Options "
            "win over the environment (GLIMP_SERVE_<NAME>), which wins over the file."
        ),
    ] = None,
    small: Small = None,
    large: Large = None,
    threshold: Threshold = None,
    large_share: LargeShare = None,
    prices: Prices = None,
    model_name: Annotated[
        str | None,
        typer.Option(help="Name under which clients ask for the pair; glimp by default."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen at; 127.0.0.1 by default, which only programs of this "
            "machine reach. Others need keys."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 8000 by default, and 0 is any free one.")
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with tables [[api_keys]]: name, key or sha256, and limits. "
            "GLIMP_SERVE_API_KEYS takes keys with commas between them."
        ),
    ] = None,
    no_keys: Annotated[
        bool,
        typer.Option(
            "--no-keys",
            help="Listen at an address that other machines reach, and let in whoever asks.",
        ),
    ] = False,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Most requests of a key per minute; no limit by default.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of a key per minute, prompts included, both models together; no "
            "limit by default."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Routing setting that a request may change: NAME, NAME=MIN..MAX or NAME=A,B. May "
            "be repeated, and replaces the usual ones: who writes what, and budgets."
        ),
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(help="Conversations that run at a time; 16 by default.")
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option(
            help="Conversations that wait for a place; 64 by default. Others are told to come "
            "back (429)."
        ),
    ] = None,
    queue_seconds: Annotated[
        float | None, typer.Option(help="Longest wait for a place, in seconds; 60 by default.")
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(help="Largest request, in bytes; 4 MiB by default.")
    ] = None,
    max_messages: Annotated[
        int | None, typer.Option(help="Most messages of a request; 1000 by default.")
    ] = None,
    grace_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds that running answers have to finish at SIGTERM or Ctrl-C; 30 by default."
        ),
    ] = None,
    keepalive_seconds: Annotated[
        float | None,
        typer.Option(
            help="A stream that is silent for so long sends a comment; 15 seconds by default."
        ),
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(
            help="File of the access log, JSON lines without texts or secrets; '-' is standard "
            "output (the default), '' is none."
        ),
    ] = None,
    open_metrics: Annotated[
        bool,
        typer.Option("--open-metrics", help="Show /metrics and /status without a key."),
    ] = False,
) -> None:
    """Serve the routed pair at one address that speaks OpenAI's API."""
    from glimp_integrations.cli.serve import run

    run(
        config,
        allow,
        prices,
        {"small": small, "large": large, "threshold": threshold, "large_share": large_share},
        host=host,
        port=port,
        model_name=model_name,
        keys_file=keys_file,
        no_keys=no_keys or None,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_running=max_running,
        max_waiting=max_waiting,
        queue_seconds=queue_seconds,
        max_body_bytes=max_body_bytes,
        max_messages=max_messages,
        grace_seconds=grace_seconds,
        keepalive_seconds=keepalive_seconds,
        access_log=access_log,
        open_metrics=open_metrics or None,
    )


@app.command()
def batch(
    requests: Annotated[
        Path,
        typer.Argument(
            help="File of requests in OpenAI's batch format: a JSON object with custom_id, method, "
            "url and body on every line."
        ),
    ],
    results: Annotated[
        Path,
        typer.Argument(
            help="File for the results, one JSON line each. A batch that was stopped goes on in it."
        ),
    ],
    small: Small = None,
    large: Large = None,
    threshold: Threshold = None,
    large_share: LargeShare = None,
    route: Route = None,
    prices: Prices = None,
    model_name: Annotated[
        str, typer.Option(help="The model that the requests name in body.model.")
    ] = "glimp",
    concurrency: Annotated[
        int, typer.Option(help="How many requests are answered at the same time.")
    ] = 8,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Ask requests again that failed in an earlier run."),
    ] = False,
    max_line_bytes: Annotated[int, typer.Option(help="Longest line of the requests, in bytes.")] = 4
    * 1024
    * 1024,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster that does the work: HOST:PORT, auto for the one this machine belongs "
            "to, local for a new one on this machine."
        ),
    ] = None,
    ray_actors: Annotated[
        int,
        typer.Option(help="How many actors there, each with --concurrency requests at a time."),
    ] = 1,
) -> None:
    """Answer a file of requests in OpenAI's batch format, or go on with it."""
    from glimp_integrations.cli.batch import start

    start(
        {
            "small": small,
            "large": large,
            "threshold": threshold,
            "large_share": large_share,
            "route": route,
        },
        prices,
        requests=requests,
        results=results,
        model_name=model_name,
        concurrency=concurrency,
        retry_failed=retry_failed,
        max_line_bytes=max_line_bytes,
        ray_address=ray,
        ray_actors=ray_actors,
    )


@app.command()
def trace(
    file: Annotated[
        str, typer.Argument(help="A saved trace, or a JSON lines file with several traces.")
    ],
    html: Annotated[
        str | None,
        typer.Option(help="Write an HTML page to this file; '-' is standard output."),
    ] = None,
    number: Annotated[
        int | None, typer.Option(help="Number of the trace in a file with several, from 1.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the HTML page.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Show one line for each step.")] = False,
) -> None:
    """Show a saved trace: each step with its author, entropy, tokens and seconds."""
    from glimp_integrations.cli.trace import run

    run(file, html, number, title, brief)


def main() -> None:
    """Run the command line. Errors of this package become one red line, without a traceback."""
    try:
        app()
    except GlimpError as error:
        typer.secho(f"glimp: {error}", fg="red", err=True)
        raise SystemExit(1) from None
