"""From logits to the next token, and to H. Logits processors are transformers' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glimp_integrations.backends.hf.grammar import Binding
from glimp_integrations.method.entropy import Estimator, estimate

__all__ = ["Draw", "Sampling", "end_ids", "entropy_of", "pick"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request draws its tokens.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        seed: Of this request's own random numbers; ``None``: a fresh one.
        options: Further fields of ``GenerationConfig`` over the model's own.
        binding: What the text has to follow.
    """

    temperature: float
    top_p: float
    seed: int | None
    options: Mapping[str, Any]
    binding: Binding | None = None


class Draw:
    """The drawing of one request: processors, random numbers, end-of-sequence ids.

    ``generate`` prepares them: what it would hand to its decoding loop is taken over, so every
    field of the model's ``generation_config`` means here what it means there
    (https://huggingface.co/docs/transformers/generation_strategies, custom generation methods).

    Args:
        model: The transformers model.
        ids: The prompt's token ids.
        max_tokens: Tokens to generate at most.
        sampling: See :class:`Sampling`.
    """

    def __init__(self, model: Any, ids: list[int], max_tokens: int, sampling: Sampling) -> None:
        self.sampled = sampling.temperature > 0
        self._binding = sampling.binding
        options: dict[str, Any] = {**sampling.options, "do_sample": self.sampled, "num_beams": 1}
        if self.sampled:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        else:
            # Fields of sampling would be reported as ignored; the neutral values are silent.
            options |= {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
        found: dict[str, Any] = {}

        def take_over(model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
            found.update(prepared)
            return input_ids

        prompt = torch.tensor([ids], device=model.device)
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            custom_generate=take_over,
            **options,
        )
        self.processors: Any = found["logits_processor"]
        self.config: Any = found["generation_config"]
        self._ids: torch.Tensor | None = prompt if len(self.processors) else None
        self._generator: torch.Generator | None = None
        if self.sampled:
            self._generator = torch.Generator(device=model.device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        return not self.sampled and self._ids is None and self._binding is None

    def one(self, logits: torch.Tensor, ahead: torch.Tensor | None = None) -> torch.Tensor:
        """Draw from ``logits``, shape ``(1, vocabulary)``; returns an id, shape ``(1,)``.

        Args:
            logits: Unscaled, of one place.
            ahead: Ids behind the known ones (of a draft), shape ``(1, n)``.
        """
        if self._binding is not None:
            # First: what is cut off afterwards (top-p, top-k) is cut off from what may come.
            logits = self._binding.mask(logits)
        scores = logits
        if self._ids is not None:
            behind = self._ids
            if ahead is not None:
                behind = torch.cat([behind, ahead.to(behind.device)], dim=-1)
            scores = self.processors(behind, logits.to(behind.device, copy=True))
        if not self.sampled:
            return scores.argmax(dim=-1)
        probabilities = scores.softmax(dim=-1)
        return torch.multinomial(probabilities, 1, generator=self._generator).squeeze(1)

    def append(self, token: torch.Tensor) -> None:
        """``token``, shape ``(1,)``, now belongs to the text."""
        if self._ids is not None:
            self._ids = torch.cat([self._ids, token[:, None].to(self._ids.device)], dim=-1)
        if self._binding is not None:
            self._binding.append(int(token))


def end_ids(ends: int | list[int] | None) -> list[int]:
    """The ids of ``eos_token_id``, which may be one, several or none."""
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def pick(logits: torch.Tensor, draws: list[Draw]) -> list[int | None]:
    """The next token of every row; ``None`` where the logits are not numbers.

    Args:
        logits: Shape ``(rows, vocabulary)``, float32.
        draws: One a row.

    Only ids and one flag a row leave the device, in a single copy.
    """
    top, likeliest = logits.max(dim=-1)  # a NaN anywhere is the maximum
    broken = ~torch.isfinite(top)
    if all(draw.plain for draw in draws):
        tokens = likeliest
    else:
        # A device that samples from NaN aborts the process: such rows draw from zeros.
        safe = torch.where(broken[:, None], torch.zeros_like(logits), logits)
        drawn = [draw.one(safe[row : row + 1]) for row, draw in enumerate(draws)]
        tokens = torch.cat([token.to(logits.device) for token in drawn])
        for row, draw in enumerate(draws):
            draw.append(tokens[row : row + 1])
    host = torch.stack([tokens, broken.to(tokens.dtype)]).tolist()
    return [None if bad else int(token) for token, bad in zip(*host, strict=True)]


def entropy_of(logits: torch.Tensor, estimator: Estimator, k: int) -> float:
    """H in nats of unscaled logits, shape ``(vocabulary,)``, computed on their device."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    if estimator != "full":
        top = logprobs.topk(min(k, logprobs.shape[-1])).values
        return estimate(top.tolist(), estimator)
    # -inf (a masked token) has probability 0 and adds nothing; 0 * -inf would be NaN.
    terms = torch.where(logprobs.isneginf(), 0.0, logprobs.exp() * logprobs)
    entropy = -float(terms.sum())
    return entropy if math.isnan(entropy) else max(0.0, entropy)
