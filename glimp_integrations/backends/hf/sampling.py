"""From logits to the next token, and to H. Logits processors are transformers' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from glimp_integrations.backends.hf.grammar import GrammarMatcher
from glimp_integrations.method.entropy import Estimator, estimate
from glimp_integrations.method.steps import SURE

__all__ = [
    "Sampler",
    "SamplingOptions",
    "end_ids",
    "entropy_of",
    "pick",
    "sure_rows",
    "top_logprobs",
]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How a request draws its tokens.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: The probability mass of nucleus sampling.
        seed: The seed of this request's own random numbers; ``None``: a fresh one.
        generation: Further fields of ``GenerationConfig``, which override the model's own.
        grammar: The grammar that the text has to follow, if there is one.
        top_k: Sample from so many tokens; this and the next three: ``None`` for what
            ``generation`` or the model's own config says.
        min_p: Sample from tokens at least so likely, relative to the likeliest.
        repetition_penalty: Of tokens in the prompt or the text.
        presence_penalty: Of generated tokens; no field of ``GenerationConfig``.
    """

    temperature: float
    top_p: float
    seed: int | None
    generation: Mapping[str, Any]
    grammar: GrammarMatcher | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None


class PresencePenalty(LogitsProcessor):
    """Takes a penalty off the logits of tokens that were generated already.

    As vLLM does it (``SamplingParams.presence_penalty``): the prompt does not count. transformers
    has no such processor.

    Args:
        penalty: What is taken off; below 0 it is added.
        prompt_length: Tokens of the prompt.
    """

    def __init__(self, penalty: float, prompt_length: int) -> None:
        self._penalty = penalty
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores after the penalty; ``input_ids`` and ``scores`` have one row for each text."""
        written = input_ids[:, self._prompt_length :]
        return scores.scatter(1, written, scores.gather(1, written) - self._penalty)


class Sampler:
    """Draws the tokens of one request: logits processors, random numbers, grammar.

    ``generate`` prepares the processors: what it would hand to its decoding loop is taken over,
    so every field of the model's ``generation_config`` means here what it means there
    (https://huggingface.co/docs/transformers/generation_strategies, custom generation methods).

    Args:
        model: The transformers model.
        ids: The prompt's token ids.
        max_tokens: The largest number of tokens to generate.
        options: See :class:`SamplingOptions`.

    Attributes:
        config: The request's ``GenerationConfig``.
    """

    def __init__(
        self, model: Any, ids: list[int], max_tokens: int, options: SamplingOptions
    ) -> None:
        self._is_random = options.temperature > 0
        self._grammar = options.grammar
        fields: dict[str, Any] = {
            **options.generation,
            "do_sample": self._is_random,
            "num_beams": 1,
        }
        if options.repetition_penalty is not None:
            fields["repetition_penalty"] = float(options.repetition_penalty)
        if self._is_random:
            fields |= {"temperature": options.temperature, "top_p": options.top_p}
            further = {"top_k": options.top_k, "min_p": options.min_p}
            fields |= {name: value for name, value in further.items() if value is not None}
        else:
            # Fields of sampling would be reported as ignored; the neutral values are silent.
            fields |= {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
        arguments: dict[str, Any] = {}

        def take_over(model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
            arguments.update(prepared)
            return input_ids

        own = LogitsProcessorList()
        if options.presence_penalty:
            own.append(PresencePenalty(options.presence_penalty, len(ids)))
        prompt = torch.tensor([ids], device=model.device)
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            custom_generate=take_over,
            logits_processor=own,
            **fields,
        )
        self.config: Any = arguments["generation_config"]
        self._processors: Any = arguments["logits_processor"]
        # Kept only where a processor looks at the text.
        self._ids: torch.Tensor | None = prompt if len(self._processors) else None
        self._generator: torch.Generator | None = None
        if self._is_random:
            self._generator = torch.Generator(device=model.device)
            if options.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(options.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        return not self._is_random and self._ids is None and self._grammar is None

    def draw(self, logits: torch.Tensor, ahead: torch.Tensor | None = None) -> torch.Tensor:
        """Draw a token, without adding it to the text.

        Args:
            logits: Unscaled logits of one place, shape ``(1, vocabulary)``.
            ahead: Ids (of a draft) between the text and that place, shape ``(1, n)``.

        Returns:
            A token id, shape ``(1,)``.
        """
        if self._grammar is not None:
            # The grammar comes first, so that top-p and top-k choose among the allowed tokens.
            logits = self._grammar.mask(logits)
        scores = logits
        if self._ids is not None:
            text = self._ids
            if ahead is not None:
                text = torch.cat([text, ahead.to(text.device)], dim=-1)
            scores = self._processors(text, logits.to(text.device, copy=True))
        if not self._is_random:
            return scores.argmax(dim=-1)
        probabilities = scores.softmax(dim=-1)
        return torch.multinomial(probabilities, 1, generator=self._generator).squeeze(1)

    def append(self, token: torch.Tensor) -> None:
        """Add a token, shape ``(1,)``, to the text."""
        if self._ids is not None:
            self._ids = torch.cat([self._ids, token[:, None].to(self._ids.device)], dim=-1)
        if self._grammar is not None:
            self._grammar.append(int(token))

    def verify(self, logits: torch.Tensor, draft: list[int]) -> list[int]:
        """Accept a draft as far as the model draws the same tokens (speculative decoding).

        At every place the model's own token is drawn. Where it equals the draft's, the logits of
        the next place were computed on the right text, so that place counts, too. The first token
        that differs is still the model's own; everything after it was computed on a wrong text.

        Args:
            logits: Those before every draft token and those after the last one, shape
                ``(len(draft) + 1, vocabulary)``.
            draft: Proposed token ids.

        Returns:
            The accepted tokens and one more of the model's own; they are added to the text.
        """
        ahead = torch.tensor([draft], device=logits.device)
        drawn = torch.cat(
            [
                self.draw(logits[row : row + 1], ahead[:, :row]).to(logits.device)
                for row in range(len(draft) + 1)
            ]
        )
        tokens = drawn.tolist()
        agreed = next((i for i, token in enumerate(draft) if tokens[i] != token), len(draft))
        for row in range(agreed + 1):
            self.append(drawn[row : row + 1])
        return [int(token) for token in tokens[: agreed + 1]]


def end_ids(ends: int | list[int] | None) -> list[int]:
    """The ids of ``eos_token_id``, which may be one id, several or none."""
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def pick(logits: torch.Tensor, samplers: list[Sampler]) -> list[int | None]:
    """The next token of every row; ``None`` where the logits are not numbers.

    Args:
        logits: Shape ``(rows, vocabulary)``, float32.
        samplers: One for every row.

    Only ids and one flag for every row leave the device, in a single copy: each copy waits for
    the device, and logits are large.
    """
    top, likeliest = logits.max(dim=-1)  # a NaN anywhere is the maximum
    broken = ~torch.isfinite(top)
    if all(sampler.plain for sampler in samplers):
        tokens = likeliest
    else:
        # Sampling from NaN aborts the process on some devices: such rows draw from zeros.
        safe = torch.where(broken[:, None], torch.zeros_like(logits), logits)
        drawn = [sampler.draw(safe[row : row + 1]) for row, sampler in enumerate(samplers)]
        tokens = torch.cat([token.to(logits.device) for token in drawn])
        for row, sampler in enumerate(samplers):
            sampler.append(tokens[row : row + 1])
    host = torch.stack([tokens, broken.to(tokens.dtype)]).tolist()
    return [None if bad else int(token) for token, bad in zip(*host, strict=True)]


def entropy_of(logits: torch.Tensor, estimator: Estimator, k: int) -> float:
    """The entropy of a next-token distribution, computed on the device of its logits.

    Args:
        logits: Unscaled, shape ``(vocabulary,)``.
        estimator: See :mod:`glimp_integrations.method.entropy`.
        k: How many of the likeliest tokens the ``topk`` estimators use.

    Returns:
        H in nats.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    if estimator != "full":
        return estimate(logprobs.topk(min(k, logprobs.shape[-1])).values.tolist(), estimator)
    # -inf (a masked token) has probability 0 and adds nothing; 0 * -inf would be NaN.
    terms = torch.where(logprobs.isneginf(), 0.0, logprobs.exp() * logprobs)
    entropy = -float(terms.sum())
    return entropy if math.isnan(entropy) else max(0.0, entropy)


def top_logprobs(logits: torch.Tensor, k: int) -> tuple[float, ...]:
    """Natural-log probabilities of the k likeliest tokens, highest first.

    Args:
        logits: Unscaled, shape ``(vocabulary,)``.
        k: How many.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    return tuple(logprobs.topk(min(k, logprobs.shape[-1])).values.tolist())


def sure_rows(logits: torch.Tensor) -> list[bool]:
    """Whether the likeliest token of every row has a probability above 0.95.

    Args:
        logits: Unscaled, shape ``(rows, vocabulary)``.
    """
    return (logits.softmax(dim=-1).amax(dim=-1) > math.exp(SURE)).tolist()
