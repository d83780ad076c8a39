"""A loaded model, and the ways from an event loop to its thread."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from llguidance import LLTokenizer

from glimp_integrations.backends.base import EntropyFunction, LogprobsFunction, Request
from glimp_integrations.backends.hf import device_thread, loading, sampling
from glimp_integrations.backends.hf.grammar import GrammarMatcher, make_tokenizer
from glimp_integrations.backends.hf.request import Drafter, SampledToken, Stream
from glimp_integrations.backends.hf.runner import Runner
from glimp_integrations.backends.hf.sampling import SamplingOptions
from glimp_integrations.backends.hf.speculative import (
    PromptLookup,
    SmallModel,
    check_vocabularies,
)
from glimp_integrations.backends.hf.token_text import (
    IncrementalDetokenizer,
    TokenHistory,
    Vocabulary,
)
from glimp_integrations.method.entropy import Estimator

__all__ = ["Engine", "MakeDrafter"]

T = TypeVar("T")

MakeDrafter = Callable[[Stream], Drafter]
"""Makes the drafter of one text."""


class Engine:
    """A loaded model with its runner and its vocabulary.

    Requests come from event loops, and the model computes on its device's thread. Everything that
    touches the model is submitted to that thread as a job, and its result comes back to the loop
    as a future.

    Args:
        model: The transformers model, in evaluation mode.
        tokenizer: Its tokenizer.
        name: The model's name, for messages.
        context_window: Tokens; ``None``: what the model's config says.
        generation: Fields of ``GenerationConfig``, which override the model's own.
        parallel: The largest number of conversations in one pass.
        cache_bytes: Memory for KV caches between requests, in bytes; ``None``: a quarter of what
            is free on the device.

    Attributes:
        window: The context window, in tokens; ``None``: not known.
        ends: Ids that end a sequence.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        context_window: int | None,
        generation: Mapping[str, Any],
        parallel: int,
        cache_bytes: int | None,
    ) -> None:
        devices = sorted({str(p.device) for p in model.parameters()} or {str(model.device)})
        if cache_bytes is None:
            cache_bytes = (loading.free_bytes(model.device) or 4 << 30) // 4
        self.window = context_window or _window(model)
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        self.runner = Runner(
            model,
            name=name,
            thread=device_thread.on(",".join(devices)),
            parallel=parallel,
            cache_bytes=cache_bytes,
        )
        self.ends = _ends(model, tokenizer, generation)
        self._generation = generation
        self._grammar_tokenizer: LLTokenizer | None = None
        self._tokenizer_pairs: weakref.WeakKeyDictionary[Engine, tuple[Any, Any] | None] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def weights(self) -> str:
        """The method of quantisation, else the type of the weights."""
        model = self.runner.model
        config = getattr(model.config, "quantization_config", None)
        if config is not None and not isinstance(config, dict):
            config = config.to_dict()
        method = (config or {}).get("quant_method")
        return str(getattr(method, "value", method) or model.dtype).removeprefix("torch.")

    # -- one request -------------------------------------------------------------------------

    def history(self, request: Request) -> TokenHistory:
        """The ids of the request's conversation, kept from request to request."""
        history: TokenHistory = request.notes.setdefault("ids", TokenHistory())
        return history

    def detokenizer(self, ids: list[int]) -> IncrementalDetokenizer:
        """What turns generated tokens into text, after ``ids``."""
        return IncrementalDetokenizer(self.vocabulary, ids)

    async def stream(
        self, request: Request, ids: list[int], make_drafter: MakeDrafter | None
    ) -> Stream:
        """The request as the runner needs it; ``ids`` are those of its prompt."""
        options = SamplingOptions(
            request.temperature,
            request.top_p,
            request.seed,
            self._generation,
            await self._grammar(request.schema),
            top_k=request.top_k,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
        )
        return Stream(list(ids), request.max_tokens, options, make_drafter, measured=request.sure)

    async def _grammar(self, schema: Mapping[str, Any] | None) -> GrammarMatcher | None:
        if schema is None:
            return None
        if self._grammar_tokenizer is None:
            # It takes a second, so it is made once, and not on the event loop.
            self._grammar_tokenizer = await asyncio.to_thread(
                make_tokenizer,
                self.tokenizer,
                int(self.runner.model.config.get_text_config().vocab_size),
                self.ends,
                self.runner.name,
            )
        return GrammarMatcher(self._grammar_tokenizer, schema)

    def entropy_function(self, sampled: SampledToken) -> EntropyFunction:
        """Computes H at a token's place; until it is called, the logits stay on the device."""

        async def entropy(estimator: Estimator, k: int) -> float:
            return await self.run(lambda: sampling.entropy_of(sampled.logits, estimator, k))

        return entropy

    def logprobs_function(self, sampled: SampledToken) -> LogprobsFunction:
        """Computes log-probabilities at a token's place, likewise."""

        async def logprobs(k: int) -> tuple[float, ...]:
            return await self.run(lambda: sampling.top_logprobs(sampled.logits, k))

        return logprobs

    # -- drafts ------------------------------------------------------------------------------

    def draft_by_lookup(self) -> MakeDrafter:
        """Drafts from earlier occurrences of the last few tokens."""
        return lambda stream: PromptLookup(self.runner, stream)

    def draft_with(self, small: Engine, names: tuple[str, str]) -> MakeDrafter:
        """Drafts of another model.

        Args:
            small: The model that drafts.
            names: The names of this and of that model, for the message.

        Raises:
            ConfigError: Their vocabularies differ, and drafts cannot be translated.
        """
        if small not in self._tokenizer_pairs:
            same = check_vocabularies(self.tokenizer, small.tokenizer, names)
            self._tokenizer_pairs[small] = None if same else (self.tokenizer, small.tokenizer)
        tokenizers = self._tokenizer_pairs[small]
        return lambda stream: SmallModel(self.runner, stream, small.runner, tokenizers)

    # -- to the thread and back --------------------------------------------------------------

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job on the model's thread, without waiting for it."""
        self.runner.thread.submit(job)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job on the model's thread and wait for its result."""

        def begin(receiver: Callable[[T | Exception], None]) -> None:
            try:
                result = job()
            except Exception as error:
                receiver(error)
            else:
                receiver(result)

        return await self._result(begin)

    async def next(self, stream: Stream) -> SampledToken:
        """The next token of a stream."""
        return await self._result(lambda receiver: self.runner.request_token(stream, receiver))

    async def _result(self, begin: Callable[[Callable[[T | Exception], None]], None]) -> T:
        """Begin something on the model's thread, and wait for what its receiver is called with."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | Exception) -> None:
            if future.done():
                return  # the task that waited was cancelled
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        def receiver(result: T | Exception) -> None:
            with suppress(RuntimeError):  # the loop was closed, so nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        self.submit(lambda: begin(receiver))
        return await future


def _window(model: Any) -> int | None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None


def _ends(model: Any, tokenizer: Any, generation: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a sequence: the generation config's, else the tokenizer's."""
    ends = generation.get("eos_token_id", model.generation_config.eos_token_id)
    return frozenset(sampling.end_ids(tokenizer.eos_token_id if ends is None else ends))
