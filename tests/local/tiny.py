"""Tiny random models of several architectures, tokenizers trained here, and helpers to run them.

Weights are float64, so that reading a text in other pieces or in a batch never turns a choice,
and larger than usual, so that greedy text varies. Nothing is fetched.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    OpenAIGPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from glimp_integrations import io_loop
from glimp_integrations.backends import HuggingFaceBackend
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.hf.token_text import IncrementalDetokenizer, Vocabulary

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
PAD, START, END, THINK, DONE = range(len(SPECIAL))
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
_ANIMALS = (
    "the quick brown fox jumps over the lazy dog, and the dog sleeps.\n\n"
    "so two and two is four.\n\nwait, let me see: is it? yes, it is four.\n\n"
    "once upon a time there was a small animal in a land far away.\n"
)
_NUMBERS = (
    "we add seven to nine and get sixteen.\n\nthen we take half of it, which gives eight.\n\n"
    "user assistant system\n\nso the answer should be eight; let us check that again.\n"
)
PROMPT = "once upon a time in a land far away there was a quick fox, and the fox "
WINDOW = 16
"""Of the sliding layers."""
_SPREAD = 2.5  # standard deviation of the logits: some places are sure, others are not

_HALVES = "Ã¯âĢĶ"  # the bytes of "ï" and of a dash, as byte-level tokenizers show them


# -- tokenizers ------------------------------------------------------------------------------


def tokenizer(kind: str = "plain") -> Any:
    """A tokenizer; the same object for the same kind.

    Args:
        kind: ``"plain"`` and ``"other"`` know lower-case letters and split differently,
            ``"bytes"`` knows every byte, ``"always"`` and ``"first"`` put a space in front of a
            text as sentencepiece does, so does ``"newlines"``, which reads several newlines as
            one token, ``"lossy"`` reads everything in lower case.
    """
    return _tokenizer(kind)


@functools.cache
def _tokenizer(kind: str) -> Any:
    if kind in ("always", "first"):
        return _wrapped(_metaspace(kind, _ANIMALS.replace("\n", " ")), kind)
    if kind == "newlines":
        return _wrapped(_metaspace("first", _ANIMALS + "\n\n \n\n\n " * 50), kind)
    if kind == "bytes":
        return _wrapped(_byte_level(_ANIMALS, 330, pre_tokenizers.ByteLevel.alphabet()), kind)
    if kind == "other":
        return _wrapped(_byte_level(_NUMBERS + _ANIMALS, 135, across=True), kind)
    raw = _byte_level(_ANIMALS, 125)
    if kind == "lossy":
        raw.normalizer = normalizers.Lowercase()
    return _wrapped(raw, kind)


def _byte_level(
    text: str, size: int, alphabet: list[str] | None = None, *, across: bool = False
) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across)
    raw.decoder = decoders.ByteLevel()
    letters = [*'abcdefghijklmnopqrstuvwxyzST347.,;:?-+="', "Ġ", "Ċ", *_HALVES]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=letters if alphabet is None else alphabet,
        show_progress=False,
    )
    raw.train_from_iterator([text] * 4 + ["\n\n"] * 50, trainer)
    return raw


def _metaspace(scheme: str, text: str) -> Tokenizer:
    """Words with their space in front, single bytes for what is not a word, as in Llama 2."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL + bytes_, show_progress=False
    )
    raw.train_from_iterator([text] * 4, trainer)
    # The bytes are ordinary tokens, not literals to look for in a text.
    trained = _without_added(raw.to_str(), len(SPECIAL))
    return Tokenizer.from_str(trained)


def _without_added(source: str, keep: int) -> str:
    import json

    data = json.loads(source)
    data["added_tokens"] = data["added_tokens"][:keep]
    return json.dumps(data)


def _wrapped(raw: Tokenizer, name: str) -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    made.name_or_path = name
    return made


# -- models ----------------------------------------------------------------------------------


def config(kind: str, size: int, layers: int = 2, **changes: Any) -> Any:
    """The configuration of a tiny model.

    Args:
        kind: ``llama``, ``qwen2``; ``gemma2``, ``gemma3`` (sliding windows); ``mamba``,
            ``mamba2`` (recurrent); ``lfm2`` (convolutions and attention), ``bamba`` (recurrent
            layers and attention), ``gpt`` (the first of its name, which has no cache).
        size: Of the vocabulary.
        layers: Number of layers.
        **changes: Fields over the usual ones.
    """
    common = {
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": END,
        "tie_word_embeddings": False,
    }
    attention = {
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    sliding = {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
    if kind == "gemma3":  # by default every sixth layer sees everything
        sliding["layer_types"] = [
            "full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)
        ]
    conv = {"layer_types": ["conv", "full_attention"] * (layers // 2), "conv_L_cache": 3}
    hybrid = {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    }
    mamba = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
    makers: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (LlamaConfig, attention),
        "qwen2": (Qwen2Config, attention),
        "gemma2": (Gemma2Config, attention | sliding),
        "gemma3": (Gemma3TextConfig, attention | sliding),
        "mamba": (MambaConfig, {"state_size": 8}),
        "mamba2": (Mamba2Config, {"state_size": 8} | mamba),
        "lfm2": (Lfm2Config, attention | conv),
        "bamba": (BambaConfig, attention | hybrid),
        "gpt": (OpenAIGPTConfig, {"n_positions": 512, "n_head": 4}),
    }
    maker, own = makers[kind]
    return maker(**common | own | changes)


def model(
    kind: str = "llama",
    tokens: Any = None,
    *,
    seed: int = 0,
    steps: float = 4.0,
    ends: float = -100.0,
    **changes: Any,
) -> Any:
    """A model with random weights, and some words likelier than others.

    Args:
        kind: See :func:`config`.
        tokens: Its tokenizer; by default :func:`tokenizer`.
        seed: Of the weights.
        steps: Added to the logit of a blank line.
        ends: Added to the logit of the end of sequence.
        **changes: See :func:`config`.
    """
    tokens = tokens or tokenizer()
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(kind, len(tokens), **changes)).double().eval()
    torch.random.set_rng_state(state)
    made.requires_grad_(False)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.mul_(8)
    spread = made(torch.tensor([tokens.encode(PROMPT)])).logits.std()
    made.lm_head.weight.mul_(_SPREAD / spread)
    bias = torch.zeros(len(tokens), dtype=torch.float64)
    bias[[PAD, START, THINK, DONE]] = -100.0
    bias[END] = ends
    if len(tokens) < 256:  # knows no other half characters, so what it writes is whole
        bias[tokens.convert_tokens_to_ids([*_HALVES])] = -100.0
    if "ĊĊ" in tokens.get_vocab():
        bias[tokens.get_vocab()["ĊĊ"]] = steps
    made.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    return made


def shared(kind: str = "llama", tokens: str = "plain", seed: int = 0) -> Any:
    """A model that several tests use; nobody changes it."""
    return _shared(kind, tokens, seed)


@functools.cache
def _shared(kind: str, tokens: str, seed: int) -> Any:
    return model(kind, tokenizer(tokens), seed=seed)


class Watched(HuggingFaceBackend):
    """A backend that remembers its requests."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[Request] = []
        self.reports: list[Report] = []

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self.requests.append(request)
        self.reports.append(report)
        async with aclosing(super().generate(request, report)) as tokens:
            async for token in tokens:
                yield token


def backend(
    kind: str = "llama", tokens: str = "plain", *, seed: int = 0, **options: Any
) -> Watched:
    """A fresh backend over a shared model."""
    options.setdefault("name", f"tiny-{kind}")
    options.setdefault("cache_bytes", 1 << 30)
    return Watched(shared(kind, tokens, seed), tokenizer(tokens), **options)


# -- asking ----------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a request came to."""

    tokens: list[Token] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


async def agenerate(backend: HuggingFaceBackend, prompt: str, count: int, **options: Any) -> Answer:
    """All tokens of one request. Runs on the project's loop."""
    answer = Answer()
    request = Request(prompt, count, **options)
    async with aclosing(backend.generate(request, answer.report)) as tokens:
        async for token in tokens:
            answer.tokens.append(token)
    return answer


def generate(backend: HuggingFaceBackend, prompt: str, count: int, **options: Any) -> Answer:
    """Synchronous :func:`agenerate`."""
    return io_loop.call(lambda: agenerate(backend, prompt, count, **options))


def settled(backend: HuggingFaceBackend) -> HuggingFaceBackend:
    """The backend, once its thread has done what was asked of it (the ends of requests, too)."""
    engine = backend._engine
    if engine is not None:
        io_loop.call(lambda: engine.run(lambda: None))
    return backend


def on_loop(function: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function on the project's loop."""
    return io_loop.call(function)


def encoded(text: str, tokens: str = "plain") -> list[int]:
    """The ids a backend reads where ``text`` is all it knows."""
    return Vocabulary(tokenizer(tokens)).encode(text)


def bare(model: Any, tokens: Any, ids: list[int], count: int, **options: Any) -> str:
    """What ``model.generate`` alone writes after ``ids``, without its end of sequence."""
    text = torch.tensor([ids])
    options.setdefault("do_sample", False)
    out = model.generate(
        text, attention_mask=torch.ones_like(text), max_new_tokens=count, **options
    )
    return spelled(tokens, ids, [t for t in out[0, len(ids) :].tolist() if t != END])


def spelled(tokens: Any, before: list[int], ids: list[int]) -> str:
    """The text of generated ids."""
    detokenizer = IncrementalDetokenizer(Vocabulary(tokens), before)
    return "".join(detokenizer.add(token)[1] for token in ids)


# -- counting --------------------------------------------------------------------------------


@dataclass
class Passes:
    """Forward passes of a model: ids and rows of each."""

    sizes: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def ids(self) -> int:
        """Ids that went through the model."""
        return sum(self.sizes)


@contextmanager
def passes(model: Any) -> Any:
    """Count what really goes through a model's forward."""
    seen = Passes()

    def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        seen.sizes.append(ids.numel())
        seen.rows.append(ids.shape[0])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def meddled(model: Any, meddle: Callable[[torch.Tensor, Any], Any]) -> Any:
    """Let a function of ids and output watch, change (by its result) or refuse every pass."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return meddle(kwargs["input_ids"] if "input_ids" in kwargs else args[0], output)

    handle = model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
