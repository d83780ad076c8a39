"""Who proposes tokens in speculative decoding: transformers' own candidate generators.

The model itself draws every token, so what is proposed changes the time and, in greedy
decoding, never the text. (https://huggingface.co/docs/transformers/assisted_decoding)
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

from glimp_integrations.backends.hf.caches import Kept, can_crop, record
from glimp_integrations.backends.hf.request import Stream
from glimp_integrations.backends.hf.runner import Runner
from glimp_integrations.backends.hf.sampling import end_ids
from glimp_integrations.errors import ConfigError

__all__ = ["PromptLookup", "SmallModel", "check_vocabularies"]

_LOOKED_UP = 10


class PromptLookup:
    """What followed the last few tokens when they stood in the text before.

    Args:
        runner: Of the model that writes.
        stream: The text.
    """

    def __init__(self, runner: Runner, stream: Stream) -> None:
        assert stream.draw is not None
        self._device = runner.model.device
        self._generator = PromptLookupCandidateGenerator(
            eos_token_id=torch.tensor(
                end_ids(stream.draw.config.eos_token_id), device=self._device
            ),
            num_output_tokens=_LOOKED_UP,
            max_matching_ngram_size=2,
            max_length=stream.draw.config.max_length,
            vocab_size=runner.model.config.get_text_config().vocab_size,
        )

    def propose(self, ids: list[int]) -> list[int]:
        found, _ = self._generator.get_candidates(torch.tensor([ids], device=self._device))  # type: ignore[arg-type]  # annotated narrower
        return [int(token) for token in found[0, len(ids) :].tolist()]

    def close(self) -> None:
        pass


class SmallModel:
    """The small model writes ahead; its own KV cache is taken over and given back.

    Args:
        runner: Of the model that writes.
        stream: The text.
        small: Runner of the small model.
        tokenizers: Of both models, writing one first, if they differ; else ``None``.
    """

    def __init__(
        self, runner: Runner, stream: Stream, small: Runner, tokenizers: tuple[Any, Any] | None
    ) -> None:
        assert stream.draw is not None
        self._small = small
        self._tokenizers = tokenizers
        self._vocabulary = runner.model.config.get_text_config().vocab_size
        self._shares = tokenizers is None and small.thread is runner.thread
        self._config = copy.deepcopy(stream.draw.config)
        # Drafts are greedy: the likeliest proposal is the one most often accepted.
        self._config.update(do_sample=False, temperature=1.0, top_p=1.0, top_k=50)
        self._generator: Any = None
        self._ids: list[int] = []

    def propose(self, ids: list[int]) -> list[int]:
        text = torch.tensor([ids], device=self._small.model.device)
        if self._generator is None:
            self._generator = self._begin(text)
        try:
            found, _ = self._generator.get_candidates(text)
        except Exception:
            self._generator = None  # what its cache holds after half a pass is unknown
            raise
        self._ids = found[0].tolist()
        # The small model's table may be padded further than this one's.
        return list(itertools.takewhile(lambda t: t < self._vocabulary, self._ids[len(ids) :]))

    def close(self) -> None:
        if self._generator is None or not self._shares:
            return
        cache = self._generator.assistant_kwargs.get(self._small.cache_name)
        if cache is not None and can_crop(cache):
            record(cache, on=False)
            self._small.pool.give(Kept(self._ids[: cache.get_seq_length()], cache))

    def _begin(self, text: torch.Tensor) -> Any:
        given: dict[str, Any] = {
            "input_ids": text,
            "assistant_model": self._small.model,
            "generation_config": self._config,
            "model_kwargs": {"attention_mask": torch.ones_like(text)},
            "inputs_tensor": text,
        }
        if self._tokenizers is not None:
            target, assistant = self._tokenizers
            return AssistedCandidateGeneratorDifferentTokenizers(
                **given, target_tokenizer=target, assistant_tokenizer=assistant
            )
        generator = AssistedCandidateGenerator(**given)
        kept = self._small.pool.take(text[0].tolist()) if self._shares else None
        if kept is not None:
            record(kept.cache, on=True)
            generator.assistant_kwargs[self._small.cache_name or ""] = kept.cache
        return generator


def check_vocabularies(large: Any, small: Any, names: tuple[str, str]) -> bool:
    """Whether two tokenizers share their ids.

    Args:
        large: Tokenizer of the model that writes.
        small: Tokenizer of the model that drafts.
        names: Of both models, for the message.

    Raises:
        ConfigError: They differ, and text does not survive the way from one to the other.
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
