"""Models of random weights with a real vocabulary, as a GGUF file and as a folder of transformers.

Random weights hardly ever write ``</think>`` or ``<tool_call>``. So two channels of the hidden
state are left alone by all layers. One is the same at every place: what the output layer reads
there is added to a token's logit, as a bias would be, which these architectures do not have. The
other tells whether the last token was a likely one.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from glimp_integrations.weights import home
from glimp_integrations.weights.disk import locked
from random_weights.vocabularies import PLAIN_TOKENS, SIZE, Family, plain, tokenizer

__all__ = ["LIKELY", "folder", "gguf_file"]

_FORMAT = 1
"""Raise it whenever other weights come out, so that what was built before is not used."""

HIDDEN, HEADS, KEY_VALUE_HEADS, LAYERS, WINDOW = 64, 4, 2, 2, 4096
SPREAD = 10.0
"""Standard deviation of the logits: at some places the next token is sure, at others it is not."""
_CONSTANT = 4.0  # the channel that no layer writes into, before it is normalised

_SCALES = {"q_proj": 4, "o_proj": 4, "down_proj": 3}
"""Layers that say more than the last token does: what comes next depends on all of the text."""

LIKELY = {
    "\n\n": 34.0,
    ".\n\n": 32.0,
    ".\n\n\n": 22.0,
    "\n": 22.0,
    "</think>": 30.0,
    "<think>": 20.0,
    "<tool_call>": 30.0,
    "</tool_call>": 20.0,
    '"': 26.0,
    '"}': 24.0,
    "}": 22.0,
    "```": 16.0,
}
"""Added to logits, of which the greatest of all other tokens is about 44."""
_END = 26.0
_TIDY = re.compile("Ġ[A-Za-z]+")
"""What a tidy model writes besides: words with a space in front of them. Such a text is read as the
very tokens that it was written as. Of other texts that is not so: a server reads what a model wrote
as other tokens when it is sent back."""
_AFTER_LIKELY = -16.0
"""Added to the same logits after one of these tokens, or one of them would be written for ever."""


def _model(family: Family, tokens: Any, seed: int, *, tidy: bool) -> Any:
    """The model for transformers."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    maker = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[family.architecture]
    own = {"head_dim": HIDDEN // HEADS} if family.architecture == "qwen3" else {}
    config = maker(
        vocab_size=SIZE,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=False,
        eos_token_id=tokens.eos_token_id,
        bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id,
        **own,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, _SCALES.get(name.split(".")[-2], 1) * weight.shape[1] ** -0.5)
        model.model.embed_tokens.weight.normal_(0, 1)
    ids = [tokens.encode(text, add_special_tokens=False) for text in LIKELY]
    # Not every family has each of them as one token.
    added = {i[0]: more for i, more in zip(ids, LIKELY.values(), strict=True) if len(i) == 1}
    added[tokens.eos_token_id] = _END
    model.model.embed_tokens.weight[:, 0] = _CONSTANT
    model.model.embed_tokens.weight[:, 1] = 0
    model.model.embed_tokens.weight[list(added), 1] = _CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[:2] = 0
        layer.mlp.down_proj.weight[:2] = 0
    output = model.lm_head.weight
    text = torch.randint(PLAIN_TOKENS, (1, 256), generator=torch.Generator().manual_seed(seed))
    hidden = model.model(text).last_hidden_state[0]
    output[:, :2] = 0
    # What all places have in common would make a few tokens the likeliest everywhere.
    mean = hidden.mean(0, keepdim=True)
    mean[:, :2] = 0
    output.sub_((output @ mean.T) @ mean / mean.square().sum())
    output.mul_(SPREAD / (hidden @ output.T).std())
    constant = hidden[:, 0].mean()
    for token, more in added.items():
        output[token, 0] = more / constant
        output[token, 1] = _AFTER_LIKELY / constant
    # Never what stands for nothing, nor what begins a turn.
    never = [
        *range(len(tokens), SIZE),
        *(i for i in tokens.all_special_ids if i != tokens.eos_token_id),
    ]
    if tidy:
        texts, _ = plain()
        never += [i for i, t in enumerate(texts) if i not in added and not _TIDY.fullmatch(t)]
    output[never, 0] = -100 / constant
    # As they are stored, so that a folder and a file hold the same numbers.
    return model.half().float()


def folder(family: Family, seed: int, *, tidy: bool) -> Path:
    """The model as a folder, as ``hf:`` reads it. It is built on first use."""
    return _built(_name(family, seed, tidy), lambda to: _save(family, seed, tidy, to))


def gguf_file(family: Family, seed: int, *, tidy: bool) -> Path:
    """The model as a GGUF file, as ``llamacpp:`` reads it. It is built on first use."""
    name = _name(family, seed, tidy)
    file = f"{name}.gguf"
    return _built(f"{name}-gguf", lambda to: _write(family, seed, tidy, to / file)) / file


def _name(family: Family, seed: int, tidy: bool) -> str:
    return f"{family.name}-{'tidy' if tidy else 'wild'}-{seed}"


def _built(name: str, build: Any) -> Path:
    place = home() / "tests" / f"random-weights-{_FORMAT}" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_dir():
        with locked(place.with_name(f"{name}.lock")):
            if not place.is_dir():
                part = place.with_name(f"{name}.part")  # only what is complete gets the name
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                build(part)
                os.replace(part, place)
    return place


def _save(family: Family, seed: int, tidy: bool, to: Path) -> None:
    tokens = tokenizer(family)
    _model(family, tokens, seed, tidy=tidy).half().save_pretrained(to)
    tokens.save_pretrained(to)


def _write(family: Family, seed: int, tidy: bool, to: Path) -> None:
    import gguf
    import numpy as np

    tokens = tokenizer(family)
    model = _model(family, tokens, seed, tidy=tidy)
    kinds = gguf.TokenType
    added = {tokens.convert_tokens_to_ids(t): special for t, special in family.added}
    texts, merges = plain()
    ids = range(SIZE)
    writer = gguf.GGUFWriter(to, family.architecture)
    writer.add_name(to.stem)
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_key_length(HIDDEN // HEADS)
    writer.add_value_length(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family.rule)
    writer.add_token_list(
        [tokens.convert_ids_to_tokens(i) if i < len(tokens) else f"[PAD{i}]" for i in ids]
    )
    writer.add_token_types(
        [
            kinds.NORMAL
            if i < len(texts)
            else kinds.UNUSED
            if i not in added
            else kinds.CONTROL
            if added[i]
            else kinds.USER_DEFINED
            for i in ids
        ]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokens.eos_token_id)
    writer.add_pad_token_id(tokens.pad_token_id)
    if tokens.bos_token_id is not None:
        writer.add_bos_token_id(tokens.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(family.source)
    names = gguf.get_tensor_name_map(
        {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[family.architecture],
        LAYERS,
    )
    for name, weight in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        kind = np.float16 if weight.dim() > 1 else np.float32
        writer.add_tensor(stored, weight.numpy().astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
