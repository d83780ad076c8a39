"""One text in several ways: each model alone, routed, and by the authors' loop.

All arms write the same number of tokens, drawn at a temperature of 1. Who writes which step is
drawn beforehand, so the routed arm and the authors' loop make the same decisions.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from benchmarks.shapes.models import word
from glimp_integrations import GlimpRouter, Glimpse, StepStart, Trace, Write, io_loop
from glimp_integrations.backends import HuggingFaceBackend
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.hf.caches import crop
from glimp_integrations.backends.hf.forward import ForwardPass
from glimp_integrations.backends.hf.sampling import entropy_of
from glimp_integrations.method.policy import Author

__all__ = ["AuthorsLoop", "Drawn", "HandOver", "Pair", "draw_authors", "sampling"]

_HAND_OVERS = 8


def draw_authors(steps: int, share: float, seed: int) -> tuple[Author, ...]:
    """An author for each step; exactly the given share of them, rounded, is the large model."""
    large = round(share * steps)
    authors: list[Author] = ["large" if step < large else "small" for step in range(steps)]
    random.Random(seed).shuffle(authors)  # noqa: S311
    return tuple(authors)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A policy whose decisions were made beforehand. It glimpses, as the method does."""

    authors: tuple[Author, ...]

    name = "drawn"

    def decide(self, start: StepStart) -> Glimpse | Write:
        if start.glimpse is None:
            return Glimpse()
        return Write(self.authors[start.index % len(self.authors)], "drawn beforehand")


def sampling(tokens: int, **changes: Any) -> Any:
    """How ``generate`` writes ``tokens`` tokens, as the routed arm does."""
    made: Any = GenerationConfig
    return made(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=tokens,
        pad_token_id=0,
        **changes,
    )


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a model takes to go on after a step of the other; seconds, medians.

    Attributes:
        request: To begin a request when nothing is new, besides writing its token.
        reading: To read the other model's step.
        token: To write a token.
    """

    request: float
    reading: float
    token: float

    @property
    def seconds(self) -> float:
        return self.request + self.reading


@dataclass(slots=True)
class AuthorsLoop:
    """The loop of arXiv 2601.05110 with ``generate`` of transformers: two requests a step.

    The small model writes one token, whose H is computed and which is thrown away; then the
    step's author writes the step.

    Args:
        models: Both models.
        keeps: Whether each model's keys and values are kept from request to request, as servers
            with a prefix cache do, which the paper counts on. Otherwise every request reads the
            whole text.

    Attributes:
        read: Tokens that each model read.
    """

    models: Mapping[Author, Any]
    keeps: bool
    read: dict[Author, int] = field(default_factory=lambda: {"small": 0, "large": 0})
    _caches: dict[Author, Any] = field(default_factory=dict)
    _cache_names: dict[Author, str] = field(init=False)

    def __post_init__(self) -> None:
        # Versions of transformers differ in the argument's name.
        self._cache_names = {
            author: str(ForwardPass(model, author).cache_name)
            for author, model in self.models.items()
        }

    def write(self, prompt: Sequence[int], authors: Sequence[Author], step: int) -> list[int]:
        """Write a text of steps of ``step`` tokens; returns its ids, without the prompt's."""
        ids = list(prompt)
        for author in authors:
            glimpse = self._generate("small", ids, 1)
            entropy_of(glimpse.logits[0][0], "topk_renorm", 20)
            ids = self._generate(author, ids, step).sequences[0].tolist()
        return ids[len(prompt) :]

    def _generate(self, author: Author, ids: list[int], count: int) -> Any:
        model = self.models[author]
        text = torch.tensor([ids], device=model.device)
        cache = self._cache(author, len(ids))
        self.read[author] += len(ids) - (0 if cache is None else cache.get_seq_length())
        kept = {} if cache is None else {self._cache_names[author]: cache}
        return model.generate(
            text,
            attention_mask=torch.ones_like(text),
            generation_config=sampling(
                count, return_dict_in_generate=True, output_logits=count == 1
            ),
            **kept,
        )

    def _cache(self, author: Author, length: int) -> Any:
        if not self.keeps:
            return None
        if author not in self._caches:
            self._caches[author] = DynamicCache(config=self.models[author].config)
        cache = self._caches[author]
        # The last token is read again, to say what follows it.
        surplus = cache.get_seq_length() - (length - 1)
        if surplus > 0:
            crop(cache, surplus)
        return cache


class Pair:
    """Two models, the product's backends over them, and a text to go on from.

    Args:
        models: Both models.
        tokenizer: Of both.
        prompt_tokens: Length of the prompt.
        step: Tokens of a step.
        seed: Of the prompt and of what is written.
    """

    def __init__(
        self,
        models: Mapping[Author, Any],
        tokenizer: Any,
        *,
        prompt_tokens: int,
        step: int,
        seed: int,
    ) -> None:
        self.models = models
        self.step = step
        self._size = len(tokenizer)
        self._numbers = random.Random(seed)  # noqa: S311
        self.prompt = self._ids(prompt_tokens)
        self.backends: dict[Author, HuggingFaceBackend] = {
            author: HuggingFaceBackend(
                model,
                tokenizer,
                name=author,
                generation={"top_k": 0},
                chat_template=lambda messages: str(messages[-1]["content"]),
            )
            for author, model in models.items()
        }
        self._router = GlimpRouter(
            *self.backends.values(),
            threshold=-1.0,
            route="always",
            think_tags=False,
            max_step_tokens=step,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
        )

    def close(self) -> None:
        """Stop the backends."""
        for backend in self.backends.values():
            backend.close()

    def _ids(self, count: int) -> list[int]:
        return [self._numbers.randrange(self._size) for _ in range(count)]

    def routed(self, authors: Sequence[Author]) -> tuple[float, Trace]:
        """Seconds of a text whose steps these authors write, and its trace.

        Raises:
            RuntimeError: It was not written as wanted.
        """
        seconds, trace = self._run(len(authors), policy=Drawn(tuple(authors)))
        written = [(step.author, step.tokens) for step in trace.steps]
        if written != [(author, self.step) for author in authors]:
            raise RuntimeError(
                f"steps of {self.step} tokens by {authors} were asked for: {written}"
            )
        return seconds, trace

    def alone(self, author: Author, steps: int) -> tuple[float, Trace]:
        """Seconds of a text of one model, and its trace."""
        return self._run(steps, threshold=-1.0 if author == "large" else float("inf"))

    def by_authors_loop(self, authors: Sequence[Author], *, keeps: bool) -> tuple[float, Any]:
        """Seconds of the same text by the authors' loop, and tokens that each model read."""
        loop = AuthorsLoop(self.models, keeps)
        begun = time.perf_counter()
        written = loop.write(self.prompt, authors, self.step)
        seconds = time.perf_counter() - begun
        assert len(written) == len(authors) * self.step
        return seconds, loop.read

    def _run(self, steps: int, **changes: Any) -> tuple[float, Trace]:
        for backend in self.backends.values():
            backend.drop_caches()
        text = "".join(map(word, self.prompt))
        begun = time.perf_counter()
        trace = self._router.run(text, max_tokens=steps * self.step, **changes).trace
        return time.perf_counter() - begun, trace

    # -- hand-over ---------------------------------------------------------------------------

    def hand_over(self, author: Author, length: int) -> HandOver:
        """What ``author`` takes to go on after a step of the other, in a text of ``length``."""
        backend = self.backends[author]
        backend.drop_caches()
        notes: dict[str, Any] = {}
        nothing_new, one_step = [], []
        text = "".join(map(word, self._ids(length)))
        self._seconds(backend, text, 1, notes)
        for _ in range(_HAND_OVERS):
            nothing_new.append(self._seconds(backend, text, 1, notes))
            text += "".join(map(word, self._ids(self.step)))
            one_step.append(self._seconds(backend, text, 1, notes))
        several = self._seconds(backend, text, self.step + 1, notes)
        single = statistics.median(nothing_new)
        token = max(0.0, several - single) / self.step
        return HandOver(
            request=max(0.0, single - token),
            reading=max(0.0, statistics.median(one_step) - single),
            token=token,
        )

    def _seconds(
        self, backend: HuggingFaceBackend, text: str, count: int, notes: dict[str, Any]
    ) -> float:
        async def ask() -> float:
            begun = time.perf_counter()
            request = Request(text, count, temperature=1.0, seed=0, notes=notes)
            async with aclosing(backend.generate(request, Report())) as tokens:
                async for _ in tokens:
                    pass
            return time.perf_counter() - begun

        return io_loop.call(ask)
