"""``glimp bench``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glimp_integrations.backends.base import Backend
from glimp_integrations.backends.room import make_room
from glimp_integrations.bench import BenchPlan, Store, load_task, parse_arms, run
from glimp_integrations.bench.progress import Bars
from glimp_integrations.bench.run import manifest_of
from glimp_integrations.cli.saying import say
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.settings import Prices, RoutingSettings

if TYPE_CHECKING:
    from glimp_integrations.weights.pairs import ModelPair, PairModel

__all__ = ["report", "start"]

_GREEDY = 0.0


def start(
    *,
    task: str,
    n: int | None,
    seed: int,
    arms: str,
    thresholds: str,
    small: str | None,
    large: str | None,
    pair: str | None,
    out: Path,
    format: str | None,
    question_column: str | None,
    answer_column: str | None,
    choice_columns: str,
    split: str | None,
    revision: str | None,
    settings: dict[str, Any],
    concurrency: int,
    measure_every: int,
    repeat: int,
    prices: str | None,
) -> None:
    """Run a bench, or go on with one, and then write its report."""
    from glimp_integrations.bench.summary import parse_prices

    parsed = parse_arms(arms, _numbers(thresholds))
    costs = parse_prices(prices) if prices else None
    items = load_task(
        task,
        n=n,
        seed=seed,
        format=format,
        question_column=question_column,
        answer_column=answer_column,
        choice_columns=[column.strip() for column in choice_columns.split(",") if column.strip()],
        split=split,
        revision=revision,
    )
    for note in items.notes:
        say(note)
    models, advised, opened = _models(small, large, pair, concurrency)
    # Settings that are not given stay out: older results do not have them.
    given = {name: value for name, value in settings.items() if value is not None}
    settings = {"temperature": _GREEDY, **advised, **given}
    plan = BenchPlan(items, parsed, settings, concurrency, measure_every, repeat)
    if repeat > 1 and any(plan.settings_of(arm).get("temperature") == 0 for arm in parsed):
        say(
            f"--repeat {repeat} at temperature 0 asks for the same answer {repeat} times; "
            "reasoning models are sampled, as with --temperature 0.6"
        )
    try:
        with GlimpRouter(*models) as router, Store(out, manifest_of(plan, router), say) as store:
            try:
                with Bars() as bars:
                    run(plan, router, store, bars)
            except KeyboardInterrupt:
                say(f"stopped; everything finished is in {out}. The same command goes on.")
                raise typer.Exit(130) from None
            finally:
                if any(line["kind"] == "answer" for line in store.lines):
                    _report(store, costs)
    finally:
        for backend in opened:
            backend.close()


def report(out: Path, prices: str | None) -> None:
    """Write the table and the plots of a folder again."""
    from glimp_integrations.bench.summary import parse_prices

    store = Store(out, say=say)
    if not any(line["kind"] == "answer" for line in store.lines):
        raise ConfigError(f"{out} holds no answers yet")
    _report(store, parse_prices(prices) if prices else None)


def _report(store: Store, prices: Prices | None) -> None:
    from rich.console import Console

    from glimp_integrations.bench.report import write_report

    write_report(store, prices, Console())


def _models(
    small: str | None, large: str | None, pair: str | None, concurrency: int
) -> tuple[tuple[Any, Any], dict[str, Any], Sequence[Backend]]:
    """The small and the large model; the sampling advised for them; and what is to be closed.

    GGUF files get no cache of earlier prompts, because those would be the prompts of other arms.
    """
    named = {"small": small, "large": large, "pair": pair}
    settings = RoutingSettings(**{name: model for name, model in named.items() if model})
    models = [settings.small, settings.large]
    opened: list[Backend] = []
    if models == [None, None]:
        from glimp_integrations.weights.pairs import BUNDLED, find_pair

        chosen = find_pair(settings.pair or BUNDLED.name)
        opened = [_of_pair(chosen, model) for model in chosen.models]
        make_room(opened, concurrency)
        advised = {name: getattr(settings, name, None) for name in chosen.sampling}
        known = {name: value for name, value in advised.items() if value is not None}
        return (opened[0], opened[1]), known, opened
    for place, model in enumerate(models):
        if isinstance(model, str) and model.startswith("llamacpp:"):
            path = Path(os.path.expanduser(model.removeprefix("llamacpp:")))
            models[place] = _gguf(path, None, 8192)
            opened.append(models[place])
    make_room(opened, concurrency)
    return (models[0], models[1]), {}, opened


def _of_pair(pair: ModelPair, model: PairModel) -> Backend:
    from glimp_integrations.weights import ensure

    path = ensure(model.file, command=pair.pull_command)
    return _gguf(path, model.file.name, pair.context_window)


def _gguf(path: Path, name: str | None, context_window: int) -> Backend:
    from glimp_integrations.backends.llamacpp import LlamaCppBackend

    return LlamaCppBackend(path, name=name, prompt_cache_mib=0, context_window=context_window)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(
            f"thresholds are {text!r}; give nats, separated by commas, such as 0.5,1.0,1.5"
        ) from None
    if not numbers:
        raise ConfigError("thresholds are empty; give at least one, in nats")
    return numbers
