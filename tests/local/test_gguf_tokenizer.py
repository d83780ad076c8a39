"""GGUF files that name how text is split, and tokenizers that split so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from glimp_integrations.weights.gguf_tokenizer import metadata_texts, split_as_named

TEXT = "at\n\n12 it"
GPT2 = ["at", "Ċ", "Ċ", "12", "Ġit"]
DIGITS_FIRST = ["at", "ĊĊ", "1", "2", "Ġit"]


class Wrapped:
    """As much of a transformers tokenizer as is looked at."""

    def __init__(self) -> None:
        self.backend_tokenizer: Any = Tokenizer(models.BPE())
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def pieces(self) -> list[str]:
        return [p for p, _ in self.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)]


def written(folder: Path, rule: str | None, model: str = "gpt2") -> Path:
    file = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_token_list(["a", "é", "\n"])
    writer.add_tokenizer_model(model)
    if rule is not None:
        writer.add_tokenizer_pre(rule)
    writer.add_bool("a.flag", True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("rule", ["smollm", "starcoder"])
def test_digits_are_split_off_first_where_the_file_says_so(tmp_path: Path, rule: str) -> None:
    tokenizer = Wrapped()
    assert tokenizer.pieces() == GPT2
    split_as_named(tokenizer, written(tmp_path, rule))
    assert tokenizer.pieces() == DIGITS_FIRST


@pytest.mark.parametrize("rule", ["made-up", None])
def test_a_rule_that_nobody_knows_is_told(
    tmp_path: Path, rule: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Wrapped()
    with caplog.at_level(logging.WARNING):
        split_as_named(tokenizer, written(tmp_path, rule))
    assert tokenizer.pieces() == GPT2
    (record,) = caplog.records
    told = record.getMessage()
    assert "tiny.gguf" in told and "tokenizer='ORG/NAME'" in told
    assert ("'made-up'" in told) == (rule is not None)


@pytest.mark.parametrize(("rule", "model"), [("gpt-2", "gpt2"), ("smollm", "llama")])
def test_other_files_are_left_alone(
    tmp_path: Path, rule: str, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Wrapped()
    with caplog.at_level(logging.WARNING):
        split_as_named(tokenizer, written(tmp_path, rule, model))
    assert tokenizer.pieces() == GPT2
    assert not caplog.records


def test_a_rule_that_transformers_follows_is_not_complained_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Wrapped()
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    with caplog.at_level(logging.WARNING):
        split_as_named(tokenizer, written(tmp_path, "qwen2"))
    assert tokenizer.pieces() == ["at", "12", "it"]
    assert not caplog.records


def test_texts_among_other_metadata_are_found(tmp_path: Path) -> None:
    keys = ("tokenizer.ggml.pre", "general.architecture", "a.flag", "missing")
    found = metadata_texts(written(tmp_path, "smollm"), keys)
    assert found == {"tokenizer.ggml.pre": "smollm", "general.architecture": "llama"}


@pytest.mark.parametrize("kept", [10, 60, 150])
def test_a_file_cut_off_is_told(tmp_path: Path, kept: int) -> None:
    file = written(tmp_path, "smollm")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"the metadata of .* is damaged"):
        metadata_texts(file, ["tokenizer.ggml.pre"])
