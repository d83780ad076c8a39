"""A tokenizer out of a GGUF file, which splits text as the file says.

A byte-level tokenizer splits text before it merges bytes, and a GGUF file only names the rule.
Where transformers does not know the name it takes GPT-2's rule and says nothing. A model then reads
tokens that it was not trained on: SmolLM2, which splits digits off first, knows a blank line before
a digit as one token, and GPT-2's rule makes two of it.
"""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

__all__ = ["metadata_texts", "split_as_named"]

_log = logging.getLogger(__name__)

_MODEL, _RULE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_DIGITS_FIRST = frozenset(
    ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
)
"""Rules that make every digit a piece of its own, and then split the rest as GPT-2 does."""
_AS_GPT2 = frozenset(("gpt-2", "granite-docling", "jais", "mpt", "olmo", "trillion"))
"""Rules that are GPT-2's under another name."""

_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Types of the format, and the bytes of one value."""


def split_as_named(tokenizer: Any, file: Path) -> None:
    """Make a tokenizer split text by the rule that its GGUF file names.

    A rule that neither transformers nor this package knows is left as it is, with a warning in the
    log.

    Args:
        tokenizer: What ``AutoTokenizer`` made of the file.
        file: The GGUF file.

    Raises:
        ValueError: The file's metadata is damaged.
    """
    from tokenizers import pre_tokenizers

    texts = metadata_texts(file, (_MODEL, _RULE))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or texts.get(_MODEL) != "gpt2":  # the only kind that splits by a rule
        return
    rule = texts.get(_RULE)
    if rule in _DIGITS_FIRST:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif rule not in _AS_GPT2 and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        named = f"names the rule {rule!r}" if rule else "does not name its rule"
        _log.warning(
            "%s %s for splitting text, and text is split by GPT-2's instead: the model may read "
            "tokens it was not trained on, so that texts and entropies are wrong. Give the "
            "tokenizer of the model's own repository (tokenizer='ORG/NAME')",
            file.name,
            named,
        )


def metadata_texts(file: Path, keys: Collection[str]) -> dict[str, str]:
    """Those of the named metadata of a GGUF file that are there and are texts.

    Reading ends with the last of them, as vocabularies are long.

    Raises:
        ValueError: The metadata is damaged, or the file is not a GGUF file of version 2 or 3.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Metadata(data).texts(keys)
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise ValueError(f"the metadata of {file} is damaged ({error})") from error


class _Metadata:
    """Reads from the beginning of a file, value after value."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def texts(self, keys: Collection[str]) -> dict[str, str]:
        magic, version, _, count = self._next("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"expected a GGUF file of version 2 or 3, and it begins {magic!r}")
        found: dict[str, str] = {}
        for _ in range(count):
            key = self._text()
            (kind,) = self._next("<I")
            if kind == _STRING and key in keys:
                found[key] = self._text()
                if len(found) == len(keys):
                    break
            else:
                self._skip(kind)
        return found

    def _next(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _text(self) -> str:
        (length,) = self._next("<Q")
        (raw,) = self._next(f"<{min(length, len(self._data))}s")
        return bytes(raw).decode()

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            (length,) = self._next("<Q")
            self._at += length
        elif kind == _ARRAY:
            inner, count = self._next("<IQ")
            if inner in (_STRING, _ARRAY):
                for _ in range(count):
                    self._skip(inner)
            else:
                self._at += _SIZES[inner] * count
        else:
            self._at += _SIZES[kind]
