"""Drafters for speculative decoding: transformers' own candidate generators.

A drafter guesses the next few tokens, and the model checks all of them in one pass, which takes
hardly longer than a pass for one token (``decoder.py``, ``Sampler.verify``). The model itself
draws every token, so drafts change the time and, in greedy decoding, never the text.
(https://huggingface.co/docs/transformers/assisted_decoding)
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from transformers.generation.candidate_generator import (
    AssistedCandidateGenerator,
    AssistedCandidateGeneratorDifferentTokenizers,
    PromptLookupCandidateGenerator,
)

from glimp_integrations.backends.hf.caches import CacheEntry, can_crop, set_recording
from glimp_integrations.backends.hf.request import Stream
from glimp_integrations.backends.hf.runner import Runner
from glimp_integrations.backends.hf.sampling import end_ids
from glimp_integrations.errors import ConfigError

__all__ = ["PromptLookup", "SmallModel", "check_vocabularies"]

_DRAFT_TOKENS = 10


class PromptLookup:
    """Drafts what followed the last few tokens where they occur earlier in the text.

    Args:
        runner: The runner of the model that writes.
        stream: The text.
    """

    def __init__(self, runner: Runner, stream: Stream) -> None:
        assert stream.sampler is not None
        self._device = runner.model.device
        self._generator = PromptLookupCandidateGenerator(
            eos_token_id=torch.tensor(
                end_ids(stream.sampler.config.eos_token_id), device=self._device
            ),
            num_output_tokens=_DRAFT_TOKENS,
            max_matching_ngram_size=2,
            max_length=stream.sampler.config.max_length,
            vocab_size=runner.model.config.get_text_config().vocab_size,
        )

    def propose(self, ids: list[int]) -> list[int]:
        text = torch.tensor([ids], device=self._device)
        candidates, _ = self._generator.get_candidates(text)  # type: ignore[arg-type]  # annotated narrower
        return [int(token) for token in candidates[0, len(ids) :].tolist()]

    def close(self) -> None:
        pass


class SmallModel:
    """Drafts what the small model would write.

    Its KV cache of this conversation is taken from its pool and given back afterwards, so it reads
    only what is new. That needs equal tokenizers and is safe only on the thread that owns the pool
    (models on two devices have two threads); elsewhere the drafter reads the text once from its
    beginning.

    Args:
        runner: The runner of the model that writes.
        stream: The text.
        small: The runner of the small model.
        tokenizers: The tokenizers of the writing and of the small model, if they differ; else
            ``None``.
    """

    def __init__(
        self, runner: Runner, stream: Stream, small: Runner, tokenizers: tuple[Any, Any] | None
    ) -> None:
        assert stream.sampler is not None
        self._small = small
        self._tokenizers = tokenizers
        self._vocabulary = runner.model.config.get_text_config().vocab_size
        self._shares_pool = tokenizers is None and small.thread is runner.thread
        self._config = copy.deepcopy(stream.sampler.config)
        # Drafts are greedy, because the likeliest token is the one most often accepted.
        self._config.update(do_sample=False, temperature=1.0, top_p=1.0, top_k=50, min_p=None)
        self._generator: Any = None
        self._ids: list[int] = []

    def propose(self, ids: list[int]) -> list[int]:
        text = torch.tensor([ids], device=self._small.model.device)
        if self._generator is None:
            self._generator = self._begin(text)
        try:
            candidates, _ = self._generator.get_candidates(text)
        except Exception:
            self._generator = None  # nobody knows what its cache holds after half a pass
            raise
        self._ids = candidates[0].tolist()
        # The small model's vocabulary may be padded with more unused ids than this one's.
        return list(itertools.takewhile(lambda t: t < self._vocabulary, self._ids[len(ids) :]))

    def close(self) -> None:
        if self._generator is None or not self._shares_pool:
            return
        cache = self._generator.assistant_kwargs.get(self._small.forward.cache_name)
        if cache is not None and can_crop(cache):
            set_recording(cache, on=False)
            self._small.pool.give(CacheEntry(self._ids[: cache.get_seq_length()], cache))

    def _begin(self, text: torch.Tensor) -> Any:
        arguments: dict[str, Any] = {
            "input_ids": text,
            "assistant_model": self._small.model,
            "generation_config": self._config,
            "model_kwargs": {"attention_mask": torch.ones_like(text)},
            "inputs_tensor": text,
        }
        if self._tokenizers is not None:
            target, assistant = self._tokenizers
            return AssistedCandidateGeneratorDifferentTokenizers(
                **arguments, target_tokenizer=target, assistant_tokenizer=assistant
            )
        generator = AssistedCandidateGenerator(**arguments)
        entry = self._small.pool.take(text[0].tolist()) if self._shares_pool else None
        if entry is not None:
            set_recording(entry.cache, on=True)
            generator.assistant_kwargs[self._small.forward.cache_name or ""] = entry.cache
        return generator


def check_vocabularies(large: Any, small: Any, names: tuple[str, str]) -> bool:
    """Whether two tokenizers share their ids.

    Args:
        large: The tokenizer of the model that writes.
        small: The tokenizer of the model that drafts.
        names: The names of both models, for the message.

    Raises:
        ConfigError: They differ, and a text encoded and decoded by one of them has changed, so
            drafts cannot be translated.
    """
    if large.get_vocab() == small.get_vocab():
        return True
    probe = 'So 3 + 4 = 7.\n\nTherefore, the answer is "naïve" — 7.'
    for tokenizer in (large, small):
        ids = tokenizer.encode(probe, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if back != probe:
            raise ConfigError(
                f"draft='small': the vocabularies of {names[0]} and {names[1]} differ, and "
                f"{type(tokenizer).__name__} reads {probe!r} back as {back!r}, so drafts cannot "
                "be translated: use draft='prompt_lookup' or no draft"
            )
    return False
