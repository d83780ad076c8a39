"""Models without a cache, and text that ends where more follows."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, OpenAIGPTConfig, PreTrainedTokenizerFast

from glimp_integrations.backends.hf.token_text import TokenHistory, Vocabulary


@pytest.fixture(scope="module")
def forgetful() -> Any:
    """A model of a family that transformers has no cache for."""
    tokens = tiny.tokenizer()
    torch.manual_seed(0)
    config = OpenAIGPTConfig(
        vocab_size=len(tokens), n_positions=512, n_embd=32, n_layer=2, n_head=4
    )
    made = AutoModelForCausalLM.from_config(config).double().eval()
    made.generation_config.eos_token_id = tiny.END
    made.generation_config.pad_token_id = tiny.PAD
    for parameter in made.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            parameter.mul_(8)
    return made


def test_model_without_cache_reads_all_for_every_token_and_says_so(
    forgetful: Any, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        backend = make(forgetful)
        first = tiny.generate(backend, tiny.PROMPT, 12)
    tokens = tiny.tokenizer()
    ids = Vocabulary(tokens).encode(tiny.PROMPT)
    assert first.text == tiny.bare(forgetful, tokens, ids, 12)
    written = first.report.completion_tokens or 0
    assert backend.computed_tokens == sum(len(ids) + n for n in range(written))
    assert sum("no cache" in record.message for record in caplog.records) == 1
    assert tiny.generate(backend, tiny.PROMPT, 12, draft="prompt_lookup").text == first.text
    together = tiny.on_loop(
        lambda: asyncio.gather(*(tiny.agenerate(backend, tiny.PROMPT, 12) for _ in range(3)))
    )
    assert [answer.text for answer in together] == [first.text] * 3


@pytest.fixture(scope="module")
def gpt2_rule() -> Any:
    """Splits as GPT-2 does; a run of newlines is a token of its own."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["so it is.\n\n", "\n\n"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_blank_line_at_the_end_is_read_as_in_front_of_a_word(gpt2_rule: Any) -> None:
    vocabulary = Vocabulary(gpt2_rule)
    alone = gpt2_rule.encode("so it is.\n\n", add_special_tokens=False)
    flowing = gpt2_rule.encode("so it is.\n\nso it is.", add_special_tokens=False)
    assert flowing[: len(alone)] != alone  # the trap
    ids = vocabulary.encode("so it is.\n\n")
    assert flowing[: len(ids)] == ids
    assert vocabulary.decode(ids) == "so it is.\n\n"


@pytest.mark.parametrize("end", ["\n", "\n\n", " ", "  ", " \n\n ", "\t", ""])
def test_text_that_ends_anyhow_is_read_exactly(gpt2_rule: Any, end: str) -> None:
    vocabulary = Vocabulary(gpt2_rule)
    for inside in (False, True):
        assert vocabulary.decode(vocabulary.encode("so it is" + end, inside=inside)) == (
            "so it is" + end
        )


def test_step_of_the_other_model_has_the_ids_its_writer_would_have_used(gpt2_rule: Any) -> None:
    vocabulary, history = Vocabulary(gpt2_rule), TokenHistory()
    history.ids("so", vocabulary)
    ids = history.ids("so it is.\n\n", vocabulary)
    whole = gpt2_rule.encode("so it is.\n\nso", add_special_tokens=False)
    assert whole[: len(ids)] == ids
