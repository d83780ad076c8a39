"""The bundled models' weights as folders that vLLM can serve."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimp_integrations import io_loop
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, WeightFile, ensure, home
from glimp_integrations.weights.convert import to_folder

__all__ = ["FILES", "Converted", "convert", "differences", "folder"]

FILES: dict[str, WeightFile] = {"small": SMALL, "large": LARGE}

CONVERSATION = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "1 + 1?  \n\n"},
    {"role": "assistant", "content": "2\n"},
    {"role": "user", "content": "And naïve 🦄 日本?"},
]
# All composed: the tokenizer of transformers composes what is not (NFC), llama.cpp does not.
TEXTS = (
    "Hello, world.\n\nAnd  more \t spaces  .\n\n\n",
    "def f(x: int) -> int:\n    return x ** 2  # 3.14, 1_000_000\n",
    "naïve café — „quoted“ 日本語 한국어 ελληνικά עברית",
    "🦄🦖🦞🦀 👩‍👩‍👧 🏳️‍🌈",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|endoftext|>",
    "<tool_call>\n{}\n</tool_call><think></think>",
    "it's I'LL we've 'tis\r\n\r\n \r\n",
)


@dataclass(frozen=True, slots=True)
class Converted:
    """One conversion; ``seconds`` is 0 where the folder was there.

    ``peak_bytes`` is the most that this process has held so far.
    """

    path: Path
    seconds: float
    peak_bytes: int


def folder(size: str) -> Path:
    """Where a converted model lies; ``benchmarks/local.py`` uses the same folders."""
    stem = FILES[size].filename.lower().removesuffix(".gguf")
    return home() / "converted" / f"{stem}-bfloat16"


def convert(size: str) -> Converted:
    """Write the GGUF file's weights as bfloat16, with tokenizer and chat template, once.

    Raises:
        ConfigError: The weights are missing and downloads are forbidden.
        BackendError: They could not be fetched.
    """
    place = folder(size)
    if place.is_dir():
        return Converted(place, 0.0, 0)
    gguf = ensure(FILES[size])
    started = time.perf_counter()
    to_folder(gguf, place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Converted(place, time.perf_counter() - started, peak)


def differences(size: str) -> list[str]:
    """Where tokenizer and chat template of the folder differ from llama.cpp's; empty: nowhere."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder(size))
    backend = LlamaCppBackend(ensure(FILES[size]), parallel=1, context_window=2048)

    def ids(text: str) -> list[int] | None:
        return io_loop.call(lambda: backend.tokenize(text))

    try:
        template = io_loop.call(backend.capabilities).template
        rendered = io_loop.call(lambda: backend.render(CONVERSATION)).text
        differences = [
            # llama.cpp drops the template's last line break, which Jinja does anyway.
            *_differs(
                "the chat template",
                lambda: tokenizer.chat_template.removesuffix("\n"),
                lambda: template,
            ),
            *_differs(
                "a rendered conversation",
                lambda: tokenizer.apply_chat_template(
                    CONVERSATION, tokenize=False, add_generation_prompt=True
                ),
                lambda: rendered,
            ),
        ]
        for text in (*TEXTS, rendered):
            differences += _differs(
                f"the tokens of {text[:30]!r}",
                lambda text=text: tokenizer.encode(text, add_special_tokens=False),  # type: ignore[misc]
                lambda text=text: ids(text),  # type: ignore[misc]
            )
    finally:
        backend.close()
    return differences


def _differs(what: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> list[str]:
    one, other = ours(), theirs()
    return [] if one == other else [f"{what}: {one!r:.200} in the folder, {other!r:.200} there"]
