"""Text that has to follow a JSON schema: llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer

from glimp_integrations.errors import ConfigError
from glimp_integrations.output.json_schema import for_llguidance

__all__ = ["GrammarMatcher", "make_tokenizer"]


def make_tokenizer(tokenizer: Any, vocabulary: int, ends: Iterable[int], name: str) -> LLTokenizer:
    """The tokenizer as llguidance needs it. Making it takes about a second.

    Args:
        tokenizer: A transformers tokenizer.
        vocabulary: Width of the model's logits.
        ends: Ids that end a sequence.
        name: The model's name, for the message.

    Raises:
        ConfigError: The tokenizer is written in Python, so its rules cannot be read.
    """
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(ends))
    except ValueError as error:
        raise ConfigError(
            f"{name} has a tokenizer that llguidance cannot read ({error}), so its answers cannot "
            "be constrained to a schema: load it with a fast tokenizer"
        ) from None


class GrammarMatcher:
    """Keeps one text within a schema.

    It holds the state of the grammar after the tokens so far, so every text needs its own.

    Args:
        tokenizer: See :func:`make_tokenizer`.
        schema: A JSON schema that has been checked.
    """

    def __init__(self, tokenizer: LLTokenizer, schema: Mapping[str, Any]) -> None:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(for_llguidance(schema)))
        self._matcher = LLMatcher(tokenizer, grammar)

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """``scores``, shape ``(1, vocabulary)``, with forbidden tokens at ``-inf``."""
        bias = bytearray(self._matcher.compute_logit_bias())
        allowed = torch.frombuffer(bias, dtype=torch.uint8)[: scores.shape[-1]] > 0
        forbidden = torch.ones(scores.shape[-1], dtype=torch.bool)
        forbidden[: len(allowed)] = ~allowed
        return scores.masked_fill(forbidden.to(scores.device), float("-inf"))

    def append(self, token: int) -> None:
        """Add a token to the text."""
        self._matcher.consume_token(token)
