"""Arguments and options of ``glimp serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glimp_integrations.cli.options import Large, LargeShare, Pair, Prices, Small, Threshold

__all__ = ["serve"]


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
    pair: Pair = None,
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
        {
            "small": small,
            "large": large,
            "pair": pair,
            "threshold": threshold,
            "large_share": large_share,
        },
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
