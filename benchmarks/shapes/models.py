"""Shapes of real pairs, and models of random weights in them.

What a forward pass takes depends on the shape of the weights and not on their values, so nothing
has to be fetched. Shapes are those of the makers' configurations
(https://huggingface.co/Qwen/Qwen3-32B and its smaller siblings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from glimp_integrations.backends.hf.loading import free_bytes
from glimp_integrations.errors import ConfigError

__all__ = ["PAIRS", "Need", "Shape", "check_memory", "device_of", "make_model", "make_tokenizer"]

DTYPE = torch.bfloat16
# These have no types.
_from_config: Any = AutoModelForCausalLM.from_config
_wrapped: Any = PreTrainedTokenizerFast
_KEPT_TEXTS = 4  # texts whose keys and values are held at once, on the busiest arm
# Bytes for what one pass computes with and for the libraries, CUDA graphs included.
_WORK = {"cuda": 4 << 30, "cpu": 256 << 20}


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a Qwen3 model.

    Attributes:
        tied: Whether the embedding is the output layer, too.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    tied: bool
    kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 151_936

    @property
    def config(self) -> Any:
        """The configuration, without an end of sequence: random text must not end by chance."""
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            tie_word_embeddings=self.tied,
            max_position_embeddings=40_960,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            eos_token_id=None,
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE.itemsize

    def weights(self) -> Weights:
        """Its weights, counted on a model without storage."""
        with torch.device("meta"):
            empty = _from_config(self.config, dtype=DTYPE)
        total = sum(int(p.numel()) for p in empty.parameters())
        unread = 0 if self.tied else self.vocabulary * self.hidden
        return Weights(total, total * DTYPE.itemsize, (total - unread) * DTYPE.itemsize)


@dataclass(frozen=True, slots=True)
class Weights:
    """How many weights a model has.

    Attributes:
        count: All of them.
        bytes: Their memory.
        read_bytes: What a decoding pass reads of it: of an input embedding it reads one row.
    """

    count: int
    bytes: int
    read_bytes: int


_TINY: dict[str, Any] = {"kv_heads": 2, "head_dim": 16, "vocabulary": 512}
_QWEN3_32B = Shape("Qwen3-32B", 5120, 25_600, 64, 64, tied=False)
PAIRS: Mapping[str, tuple[Shape, Shape]] = {
    "tiny": (
        Shape("tiny", 32, 64, 2, 4, tied=True, **_TINY),
        Shape("less tiny", 64, 128, 4, 4, tied=False, **_TINY),
    ),
    "qwen3-1.7b+32b": (Shape("Qwen3-1.7B", 2048, 6144, 28, 16, tied=True), _QWEN3_32B),
    "qwen3-4b+32b": (Shape("Qwen3-4B", 2560, 9728, 36, 32, tied=True), _QWEN3_32B),
}
"""Small and large model of each pair."""


def device_of(name: str) -> torch.device:
    """A device by name.

    Raises:
        ConfigError: This machine, or this build of torch, has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} finds no CUDA device here: use --device cpu, or a machine "
            "with a card and a build of torch for CUDA"
        )
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a run takes."""

    weights: int
    caches: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.work

    def __str__(self) -> str:
        return (
            f"{self.total:,} bytes ({self.weights:,} for weights, {self.caches:,} for keys and "
            f"values, {self.work:,} to compute with)"
        )


def check_memory(shapes: Sequence[Shape], tokens: int, device: torch.device) -> tuple[Need, int]:
    """What a run with texts of ``tokens`` tokens needs, and what is free, both in bytes.

    Raises:
        ConfigError: It does not fit.
    """
    need = Need(
        sum(shape.weights().bytes for shape in shapes),
        _KEPT_TEXTS * tokens * sum(shape.token_bytes for shape in shapes),
        _WORK[device.type],
    )
    free = free_bytes(device)
    assert free is not None
    if need.total > free:
        names = " and ".join(shape.name for shape in shapes)
        raise ConfigError(
            f"{names} need {need}, and {device} has {free:,} bytes free: choose smaller --shapes, "
            "fewer --steps, or a device with more memory"
        )
    return need, free


def make_model(shape: Shape, device: torch.device, seed: int) -> Any:
    """A model in evaluation mode; its weights are drawn where they stay, in bfloat16."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), device:
        torch.manual_seed(seed)
        model = _from_config(shape.config, dtype=DTYPE)
    return model.eval().requires_grad_(False)


def make_tokenizer(size: int) -> Any:
    """A tokenizer with a word for every id, so that random text is as long for both models."""
    raw = Tokenizer(WordLevel({word(number): number for number in range(size)}, word(0)))
    raw.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    raw.decoder = decoders.Fuse()
    return _wrapped(tokenizer_object=raw, clean_up_tokenization_spaces=False)


def word(number: int) -> str:
    """The text of an id."""
    return f" {number:x}"
