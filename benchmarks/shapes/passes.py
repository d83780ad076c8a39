"""Where the time of a decoding pass goes: launching kernels, or reading weights."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.shapes.arms import sampling
from glimp_integrations.backends.hf.forward import ForwardPass

__all__ = ["bandwidth", "by_generate", "launch_bound", "one_pass", "variants"]

_WARM = 4  # tokens, or passes, before measuring
_PASSES = 24
_COPIES = 10
_LAUNCHING = 0.9  # of a pass: then the device waits for work for most of it
_COPIED = {"cuda": 1 << 30, "cpu": 64 << 20}  # bytes, far more than any cache of the device


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads and writes, measured by copying its memory."""
    source = torch.zeros(_COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = []
    for _ in range(_COPIES):
        synchronise(device)
        begun = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * source.numel() / statistics.median(seconds)


def one_pass(model: Any, length: int) -> tuple[float, float]:
    """Seconds of a decoding pass after ``length`` tokens, medians.

    Returns:
        Until the pass is submitted, and until it is computed.
    """
    device = model.device
    positions = torch.arange(length + _WARM + _PASSES, device=device)[None]
    ids = positions % model.config.vocab_size
    forward = ForwardPass(model, "model")
    submitted, computed = [], []
    with torch.inference_mode():
        cache = forward.new_cache()
        forward.run(ids[:, :length], positions[:, :length], cache, None)
        for place in range(length, length + _WARM + _PASSES):
            new = slice(place, place + 1)
            synchronise(device)
            begun = time.perf_counter()
            forward.run(ids[:, new], positions[:, new], cache, None)
            submitted.append(time.perf_counter() - begun)
            synchronise(device)
            computed.append(time.perf_counter() - begun)
    return statistics.median(submitted[_WARM:]), statistics.median(computed[_WARM:])


def launch_bound(device: torch.device, submitted: float, computed: float) -> bool | None:
    """Whether a pass takes the time of launching its kernels; ``None``: not on such a device.

    A card runs the first kernels of a pass while further ones are submitted. If it is done as soon
    as the last one is submitted, it waits for kernels, and not for memory.
    """
    return submitted >= _LAUNCHING * computed if device.type == "cuda" else None


class _Clock(StoppingCriteria):
    """Never stops anything; notes when the warm-up is over."""

    def __init__(self) -> None:
        self.tokens = 0
        self.begun = 0.0

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.tokens += 1
        if self.tokens == _WARM:
            synchronise(input_ids.device)
            self.begun = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def by_generate(model: Any, length: int, tokens: int, **options: Any) -> float:
    """Seconds a token of ``generate`` after ``length`` tokens, with fields of its config."""
    ids = torch.arange(length, device=model.device)[None] % model.config.vocab_size
    clock = _Clock()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=sampling(_WARM + tokens, **options),
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    synchronise(model.device)
    return (time.perf_counter() - clock.begun) / (clock.tokens - _WARM)


def variants(
    model: Any, length: int, tokens: int, *, compiled: bool
) -> dict[str, dict[str, float | str]]:
    """Ways of transformers to decode: seconds a token, and of the first use.

    ``"static, compiled"`` is ``torch.compile`` with CUDA graphs, as ``generate`` does by itself
    for a static cache on a card. A way that fails has its reason in place of figures.
    """
    ways: dict[str, dict[str, Any]] = {
        "eager": {},
        "static cache": {"cache_implementation": "static", "disable_compile": True},
    }
    if compiled:
        ways["static cache, compiled"] = {"cache_implementation": "static"}
    measured: dict[str, dict[str, float | str]] = {}
    for name, options in ways.items():
        begun = time.perf_counter()
        try:
            by_generate(model, length, tokens, **options)
            first = time.perf_counter() - begun
            measured[name] = {
                "token": by_generate(model, length, tokens, **options),
                "first_use": first,
            }
        except Exception as error:  # compilers fail in many ways; other figures stay of use
            measured[name] = {"failed": f"{type(error).__name__}: {error}".split("\n", 1)[0]}
    torch.compiler.reset()
    return measured
