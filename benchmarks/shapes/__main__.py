"""What routing takes with models in the shapes of real pairs, of random weights.

    python -m benchmarks.shapes --json shapes.json                 # Qwen3-1.7B and 32B, on a card
    python -m benchmarks.shapes --shapes qwen3-4b+32b --json FILE
    python -m benchmarks.shapes --shapes tiny --device cpu         # does it run? seconds

Both models run on transformers in this process, in bfloat16. A text is written by each model
alone, routed by the product on its own backend, and by the authors' loop on the same decisions
(arXiv 2601.05110, section 3); decisions are drawn at a share, and steps have a fixed length. Then
come hand-overs, and where the time of a decoding pass goes. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.shapes import passes
from benchmarks.shapes.arms import HandOver, Pair, draw_authors
from benchmarks.shapes.models import (
    PAIRS,
    Shape,
    check_memory,
    device_of,
    make_model,
    make_tokenizer,
)
from benchmarks.shapes.report import table
from glimp_integrations.errors import GlimpError
from glimp_integrations.method.policy import Author
from glimp_integrations.runtime.speed import ModelSpeed, PairSpeed

_ROLES: tuple[Author, Author] = ("small", "large")
_WARM_STEPS = 2


def main(arguments: list[str] | None = None) -> None:
    """Parse arguments, measure, print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shapes", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--shapes", choices=PAIRS, default="qwen3-1.7b+32b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=16, help="steps of each text")
    parser.add_argument("--step-tokens", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.25, help="of steps, the large model's")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="each arm writes so many texts")
    parser.add_argument("--seed", type=int, default=7, help="of weights, text and decisions")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, help="write the figures, part by part")
    options = parser.parse_args(arguments)
    for name in ("steps", "step_tokens", "prompt_tokens", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; at least 1")
    if not 0 <= options.share <= 1:
        parser.error(f"--share is {options.share}; expected 0 to 1")
    try:
        measure(options, Console(width=110))
    except GlimpError as error:
        sys.exit(str(error))


def measure(options: argparse.Namespace, console: Console) -> None:
    """Make the models, run all parts, print the table.

    Raises:
        ConfigError: There is no such device, or not enough memory.
    """
    device = device_of(options.device)
    shapes: dict[Author, Shape] = dict(zip(_ROLES, PAIRS[options.shapes], strict=True))
    # The longest text is that of the hand-overs, or that of the arms.
    tokens = options.prompt_tokens + (max(options.steps, _WARM_STEPS) + 10) * options.step_tokens
    need, free = check_memory(list(shapes.values()), tokens, device)
    console.print(f"{options.shapes}: needs {need}; {device} has {free:,} bytes free")
    figures: dict[str, Any] = {
        "machine": machine(device),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "need": {**asdict(need), "total": need.total, "free": free},
        "weights": {role: asdict(shape.weights()) for role, shape in shapes.items()},
    }
    compiled = device.type == "cuda" and not options.no_compile
    with Progress(console=console) as progress:
        task = progress.add_task("making the models", total=2 + 1 + 5 * options.rounds + 2 + 2)

        def doing(what: str) -> None:
            progress.update(task, description=what, advance=1)

        models: dict[Author, Any] = {}
        for number, (role, shape) in enumerate(shapes.items()):
            models[role] = make_model(shape, device, options.seed + number)
            doing(f"made {shape.name}")
        pair = Pair(
            models,
            make_tokenizer(shapes["large"].vocabulary),
            prompt_tokens=options.prompt_tokens,
            step=options.step_tokens,
            seed=options.seed,
        )
        try:
            figures |= texts(pair, options, doing)
        finally:
            pair.close()
        store(figures, options.json)
        rate = passes.bandwidth(device)
        figures["bandwidth"] = rate
        length = options.prompt_tokens + options.steps * options.step_tokens // 2
        figures["passes"] = {}
        for role, model in models.items():
            doing(f"passes of {shapes[role].name}")
            submitted, computed = passes.one_pass(model, length)
            figures["passes"][role] = {
                "submitted": submitted,
                "computed": computed,
                "launch_bound": passes.launch_bound(device, submitted, computed),
                "reading_weights": figures["weights"][role]["read_bytes"] / rate,
                "ways": passes.variants(model, length, options.step_tokens, compiled=compiled),
            }
            store(figures, options.json)
    console.print(table(figures, {role: shape.name for role, shape in shapes.items()}))


def texts(pair: Pair, options: argparse.Namespace, doing: Any) -> dict[str, Any]:
    """All arms in turn, round by round, and the hand-overs."""
    authors = draw_authors(options.steps, options.share, options.seed)
    seconds: dict[str, list[float]] = {}
    read: dict[str, Any] = {}
    trace = None
    doing("warming up")
    one_of_each: tuple[Author, ...] = ("small", "large")
    for role in _ROLES:
        pair.alone(role, 1)
    pair.routed(one_of_each)
    for keeps in (True, False):
        pair.by_authors_loop(one_of_each, keeps=keeps)
    for number in range(options.rounds):
        for role in _ROLES:
            doing(f"round {number + 1}: {role} alone")
            seconds.setdefault(role, []).append(pair.alone(role, options.steps)[0])
        doing(f"round {number + 1}: routed")
        took, trace = pair.routed(authors)
        seconds.setdefault("routed", []).append(took)
        for name, keeps in (("loop_kept", True), ("loop_anew", False)):
            doing(f"round {number + 1}: the authors' loop")
            took, read[name] = pair.by_authors_loop(authors, keeps=keeps)
            seconds.setdefault(name, []).append(took)
    assert trace is not None
    length = options.prompt_tokens + options.steps * options.step_tokens // 2
    hand_overs = {}
    for role in _ROLES:
        doing(f"hand-overs to the {role} model")
        hand_overs[role] = pair.hand_over(role, length)
    tokens = options.steps * options.step_tokens
    per_token = {arm: statistics.median(took) / tokens for arm, took in seconds.items()}
    speed = pair_speed(per_token, hand_overs, options.step_tokens)
    return {
        "authors": authors,
        "tokens": tokens,
        "seconds": seconds,
        "token_seconds": per_token,
        "token_ratio": per_token["small"] / per_token["large"],
        "hand_over": {role: {**asdict(h), "seconds": h.seconds} for role, h in hand_overs.items()},
        "ideal_seconds": speed.ideal(trace),
        "rho": per_token["routed"] * tokens / speed.ideal(trace),
        "read": read,
    }


def pair_speed(
    per_token: dict[str, float], hand_overs: dict[Author, HandOver], step: int
) -> PairSpeed:
    """The prices of this run, for the ideal time of a trace."""
    small, large = (
        ModelSpeed(
            request=hand_overs[role].request,
            token=per_token[role],
            prefill=hand_overs[role].reading / step,
            release=0.0,
        )
        for role in _ROLES
    )
    return PairSpeed(small, large, logprobs=0.0, slowdown=2.0)


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on."""
    on_card = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_card else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def store(figures: dict[str, Any], path: Path | None) -> None:
    """Write what is measured so far: a run on a borrowed card may end early."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
