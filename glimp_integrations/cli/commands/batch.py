"""Arguments and options of ``glimp batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations.cli.options import Large, LargeShare, Pair, Prices, Route, Small, Threshold

__all__ = ["batch"]


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
    pair: Pair = None,
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
            "pair": pair,
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
