"""Models in this process: decode speed, rho, eight questions at once, memory.

    python benchmarks/local.py decode      # against a bare generate() of transformers
    python benchmarks/local.py rho         # routed answers: measured / ideal time
    python benchmarks/local.py together    # 8 questions: one by one, queued, batched
    python benchmarks/local.py memory      # peak of the process, routed against both alone
    python benchmarks/local.py all --json FILE

SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct, dequantised from their GGUF files once
and run in bfloat16. Everything that is compared runs in turn in one process; figures are
medians of ratios, because the speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reasoning_gym
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends import HuggingFaceBackend
from glimp_integrations.weights import SMALL, TINY, ensure, home
from glimp_integrations.weights.convert import to_folder

FILES = {"small": TINY, "large": SMALL}
NAMES = {"small": TINY.model, "large": SMALL.model}
console = Console(width=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--n", type=int, default=10, help="problems or repetitions")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of one generation")
    parser.add_argument("--threshold", type=float, default=2.2, help="nats, routed answers")
    parser.add_argument("--seed", type=int, default=7, help="seed of the problem set")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    for file in FILES.values():
        folder(file)
    figures = {}
    for part in PARTS if options.part == "all" else [options.part]:
        figures[part] = PARTS[part](options)
    console.print(
        f"{NAMES['small']} / {NAMES['large']}, dequantised, bfloat16; torch {torch.__version__}, "
        f"transformers {version('transformers')}; {platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


# -- decode speed ----------------------------------------------------------------------------


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s of a backend's stream against ``generate`` of the same loaded model."""
    table = Table(title=f"decode: {options.tokens} tokens, {options.n} pairs in turn")
    for column in ("model", "generate tok/s", "backend tok/s", "ratio (median)", "ratios"):
        table.add_column(column, justify="right")
    figures: dict[str, Any] = {}
    for role in FILES:
        model, tokenizer = load(role)
        backend = HuggingFaceBackend(model, tokenizer, name=NAMES[role])
        router = GlimpRouter(backend, backend, **ALONE, max_tokens=options.tokens)
        text = "Write a long story about a lighthouse keeper and the sea."
        ids = prompt_ids(tokenizer, text)

        def bare(model: Any = model, ids: torch.Tensor = ids) -> float:
            start()
            return len(generated(model, ids, options.tokens)) / seconds()

        def ours(backend: Any = backend, router: Any = router, text: str = text) -> float:
            backend.drop_caches()
            start()
            answer = router.run(text)
            return answer.usage.large.output_tokens / seconds()

        bare(), ours()
        pairs = [(bare(), ours()) for _ in track(range(options.n), NAMES[role], console=console)]
        ratios = [b / a for a, b in pairs]
        figures[role] = {"pairs": pairs, "ratio": statistics.median(ratios)}
        table.add_row(
            NAMES[role],
            f"{statistics.median(a for a, _ in pairs):.1f}",
            f"{statistics.median(b for _, b in pairs):.1f}",
            f"{figures[role]['ratio']:.3f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
        backend.close()
    console.print(table)
    return figures


# -- rho -------------------------------------------------------------------------------------


def rho(options: argparse.Namespace) -> dict[str, Any]:
    """Measured time of routed answers over the ideal time of the same tokens.

    Ideal: every kept token costs one bare decoding pass of its author, every unread token of a
    hand-over its share of a bare reading pass; times are calibrated around every answer.
    """
    models = {role: load(role) for role in FILES}
    backends = {role: HuggingFaceBackend(*models[role], name=NAMES[role]) for role in FILES}
    router = GlimpRouter(
        backends["small"],
        backends["large"],
        temperature=0,
        threshold=options.threshold,
        route="always",
        max_tokens=256,
    )
    router.run("Hi", max_tokens=4)
    lines = []
    for question in track(questions(options), "rho", console=console):
        for backend in backends.values():
            backend.drop_caches()
        before = {role: calibrate(*models[role]) for role in FILES}
        start()
        answer = router.run(question)
        measured = seconds()
        after = {role: calibrate(*models[role]) for role in FILES}
        lines.append(line_of(answer, measured, before, after))
    table = Table(title=f"rho: routed answers, threshold {options.threshold} nats (full)")
    for column in (
        "answer",
        "steps",
        "small tok",
        "large tok",
        "read small",
        "read large",
        "seconds",
        "ideal",
        "rho",
    ):
        table.add_column(column, justify="right")
    for index, line in enumerate(lines, 1):
        table.add_row(
            str(index),
            *(str(line[k]) for k in ("steps", "small", "large", "read_small", "read_large")),
            f"{line['seconds']:.1f}",
            f"{line['ideal']:.1f}",
            f"{line['seconds'] / line['ideal']:.3f}",
        )
    total = sum(x["seconds"] for x in lines) / sum(x["ideal"] for x in lines)
    median = statistics.median(x["seconds"] / x["ideal"] for x in lines)
    console.print(table)
    console.print(f"rho of all {len(lines)}: {total:.3f}, median {median:.3f}")
    return {"lines": lines, "rho": total, "median": median}


def line_of(
    answer: RoutedAnswer, measured: float, *calibrations: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    trace, usage = answer.trace, answer.usage
    line: dict[str, Any] = {
        "steps": len(trace.steps),
        "small": trace.tokens("small"),
        "large": trace.tokens("large"),
        "read_small": usage.small.input_tokens - usage.small.cached_tokens,
        "read_large": usage.large.input_tokens - usage.large.cached_tokens,
        "seconds": measured,
    }
    ideal = 0.0
    for role in FILES:
        decode_s = statistics.mean(c[role][0] for c in calibrations)
        read_s = statistics.mean(c[role][1] for c in calibrations)
        ideal += line[role] * decode_s + line[f"read_{role}"] * read_s
        line[f"{role}_ms"] = 1000 * decode_s
        line[f"read_{role}_ms"] = 1000 * read_s
    line["ideal"] = ideal
    return line


def calibrate(model: Any, tokenizer: Any) -> tuple[float, float]:
    """Seconds of a bare decoding pass, and of each further token read in a pass."""
    text = torch.tensor([tokenizer.encode("The sea was calm. " * 200)[:400]])

    def one_pass(cache: Any, begin: int, size: int) -> float:
        begun = time.perf_counter()
        out = model(text[:, begin : begin + size], cache=cache, use_cache=True, logits_to_keep=1)
        int(out.logits[0, -1].argmax())
        return time.perf_counter() - begun

    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        one_pass(cache, 0, 200)
        single = [one_pass(cache, 200 + i, 1) for i in range(12)]
        reading = [one_pass(cache, 220 + 60 * i, 60) for i in range(3)]
    decode_s = statistics.median(single[2:])
    return decode_s, max(0.0, statistics.median(reading) - decode_s) / 59


# -- eight questions at once -----------------------------------------------------------------


def together(options: argparse.Namespace) -> dict[str, Any]:
    """Eight questions: one after another, a fair queue, a batch, and continuous batching."""
    options.n = 8
    texts = questions(options)
    model, tokenizer = load("large")
    small_model, small_tokenizer = load("small")
    prompts = [prompt_ids(tokenizer, q) for q in texts]

    def one_by_one(tokens: int) -> int:
        return sum(len(generated(model, ids, tokens)) for ids in prompts)

    def continuous(tokens: int) -> int:
        config = greedy(model, tokens)
        done = model.generate_batch(
            inputs=[ids[0].tolist() for ids in prompts],
            generation_config=config,
            progress_bar=False,
        )
        return sum(len(output.generated_tokens) for output in done.values())

    def ours(parallel: int, routed: bool, at_once: bool) -> Callable[[int], int]:
        large = HuggingFaceBackend(model, tokenizer, name=NAMES["large"], parallel=parallel)
        small = HuggingFaceBackend(
            small_model, small_tokenizer, name=NAMES["small"], parallel=parallel
        )
        router = GlimpRouter(
            small,
            large,
            temperature=0,
            threshold=options.threshold if routed else -1.0,
            route="always",
        )

        def run(tokens: int) -> int:
            small.drop_caches(), large.drop_caches()
            answers = run_all(router, texts, tokens, at_once)
            return sum(a.trace.tokens("small") + a.trace.tokens("large") for a in answers)

        return run

    arms: dict[str, Callable[[int], int]] = {
        "large alone, generate() one by one": one_by_one,
        "large alone, fair queue of 8": ours(1, False, True),
        "large alone, batch of 8": ours(8, False, True),
        "large alone, continuous batching of transformers": continuous,
        "routed, one by one": ours(8, True, False),
        "routed, fair queue of 8": ours(1, True, True),
        "routed, batch of 8": ours(8, True, True),
    }
    model.set_attn_implementation("sdpa")
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for tokens in track([2, *[options.tokens] * ROUNDS], "together", console=console):
        for name, arm in arms.items():
            start()
            made = arm(tokens)
            if tokens == options.tokens:  # the first round warms up
                rates[name].append(made / seconds())
            model.set_attn_implementation("sdpa")  # continuous batching changes it
    table = Table(title=f"8 questions at once, at most {options.tokens} tokens each, greedy")
    for column in ("arm", f"tokens/s ({ROUNDS} rounds)", "against one by one"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    figures = {}
    for name, values in rates.items():
        reference = rates["routed, one by one" if "routed" in name else next(iter(arms))]
        ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
        figures[name] = {"rates": values, "ratio": ratio}
        table.add_row(name, f"{statistics.median(values):.1f}", f"{ratio:.2f}x")
    console.print(table)
    return figures


def run_all(
    router: GlimpRouter, texts: list[str], tokens: int, at_once: bool
) -> list[RoutedAnswer]:
    if not at_once:
        return [router.run(question, max_tokens=tokens) for question in texts]

    async def gather() -> list[RoutedAnswer]:
        return await asyncio.gather(*(router.arun(q, max_tokens=tokens) for q in texts))

    return asyncio.run(gather())


# -- memory ----------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a fresh process: both models generating alone, and routed."""
    peaks = {}
    for arm in ("alone", "routed"):
        command = [sys.executable, __file__, "memory-arm", arm, str(options.seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[arm] = json.loads(done.stdout.splitlines()[-1])
    ratio = peaks["routed"]["peak"] / peaks["alone"]["peak"]
    console.print(
        f"memory: peak {peaks['alone']['peak'] / 2**20:,.0f} MiB with both models alone, "
        f"{peaks['routed']['peak'] / 2**20:,.0f} MiB routed, {ratio:.3f}x; kept caches "
        f"{peaks['routed']['kept'] / 2**20:,.1f} MiB of it"
    )
    return {**peaks, "ratio": ratio}


def memory_arm(arm: str, seed: int) -> None:
    texts = questions(argparse.Namespace(n=3, seed=seed))
    kept = 0
    if arm == "alone":
        for role in FILES:
            model, tokenizer = load(role)
            held.append(model)
            for question in texts:
                generated(model, prompt_ids(tokenizer, question), 200)
    else:
        backends = [HuggingFaceBackend(folder(file), dtype="bfloat16") for file in FILES.values()]
        router = GlimpRouter(*backends, temperature=0, route="always", max_tokens=200)
        for question in texts:
            router.run(question)
        kept = sum(backend.kept_bytes for backend in backends)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "kept": kept}))


held: list[Any] = []

# -- common ----------------------------------------------------------------------------------

ROUNDS = 2
ALONE: dict[str, Any] = {"temperature": 0, "threshold": -1.0}
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "decode": decode,
    "rho": rho,
    "together": together,
    "memory": memory,
}
_started = 0.0


def start() -> None:
    global _started
    _started = time.perf_counter()


def seconds() -> float:
    return time.perf_counter() - _started


def folder(file: Any) -> Path:
    name = re.sub(r"\.gguf$", "", file.filename).lower()
    return to_folder(ensure(file), home() / "converted" / f"{name}-bfloat16")


def load(role: str) -> tuple[Any, Any]:
    place = folder(FILES[role])
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).eval()
    return model, AutoTokenizer.from_pretrained(place)


def questions(options: argparse.Namespace) -> list[str]:
    data = reasoning_gym.create_dataset("gsm_symbolic", size=options.n, seed=options.seed)
    return [item["question"] + " Think step by step." for item in data]


def prompt_ids(tokenizer: Any, question: str) -> torch.Tensor:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return torch.tensor([tokenizer.encode(text, add_special_tokens=False)])


def greedy(model: Any, tokens: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.eos_token_id,
    )


def generated(model: Any, ids: torch.Tensor, tokens: int) -> list[int]:
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=greedy(model, tokens)
    )
    return out[0, ids.shape[1] :].tolist()


def version(package: str) -> str:
    from importlib.metadata import version as installed

    return installed(package)


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if sys.argv[1:2] == ["memory-arm"]:
        memory_arm(sys.argv[2], int(sys.argv[3]))
    else:
        main()
