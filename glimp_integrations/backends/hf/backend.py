"""A model that transformers runs in this process."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from glimp_integrations import io_loop
from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import (
    Backend,
    Capabilities,
    EntropyFunction,
    Message,
    Rendered,
    Report,
    Request,
    Token,
)
from glimp_integrations.backends.chat_templates import THINKING
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.entropy import Estimator

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from glimp_integrations.backends.hf.grammar import Binding
    from glimp_integrations.backends.hf.loading import Source
    from glimp_integrations.backends.hf.request import Drawn, Stream
    from glimp_integrations.backends.hf.runner import Runner
    from glimp_integrations.backends.hf.token_text import Vocabulary

__all__ = ["HuggingFaceBackend"]

T = TypeVar("T")


class HuggingFaceBackend(Backend):
    """A causal language model on transformers and PyTorch, loaded on first use.

    KV caches are kept from step to step and from call to call, so a hand-over reads only what
    is new; H is computed from the whole vocabulary, on the model's device, at the beginning of
    steps only. Sampling follows the model's ``generation_config``; the router's temperature and
    top_p go before it. ``timeout`` does not apply: nothing here waits for a network.

    Args:
        model: Hub id, folder, path of a GGUF file, or a loaded model (then ``tokenizer`` too).
        tokenizer: Id, folder or loaded tokenizer, if it is not the model's own.
        name: Shown in traces.
        gguf_file: A GGUF file inside the repository or folder ``model``.
        dtype: ``"auto"`` (the checkpoint's; float32 for GGUF), a name such as ``"bfloat16"``, or
            a ``torch.dtype``. bfloat16 is much faster than float32, also on many CPUs.
        device_map: As in ``from_pretrained``; by default this machine's accelerator, else the CPU.
        quantization_config: As in ``from_pretrained``.
        attn_implementation: As in ``from_pretrained``.
        revision: As in ``from_pretrained``.
        local_files_only: As in ``from_pretrained``.
        trust_remote_code: Run code that comes with the model; off by default.
        token: For gated models; by default what ``hf auth login`` stored.
        model_options: Further arguments of ``AutoModelForCausalLM.from_pretrained``.
        generation: Fields of ``GenerationConfig`` over the model's own, such as
            ``{"repetition_penalty": 1.05}``.
        chat_template: Jinja source, or a function from messages (and ``tools=...``, where there
            are any) to the prompt.
        template_kwargs: Passed to the template; thinking is switched on by default.
        context_window: Tokens; by default what the model's config says.
        top_logprobs: k for the estimators that use the likeliest tokens only.
        parallel: Conversations computed in one pass at most.
        cache_bytes: Memory for KV caches between requests, in bytes; by default a quarter of
            what is free on the device after loading.

    Raises:
        ConfigError: An argument has an impossible value.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        gguf_file: str | None = None,
        dtype: Any = "auto",
        device_map: Any = None,
        quantization_config: Any = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | SecretStr | None = None,
        model_options: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
        chat_template: str | Callable[[Sequence[Message]], str] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        context_window: int | None = None,
        top_logprobs: int = 20,
        parallel: int = 8,
        cache_bytes: int | None = None,
    ) -> None:
        for argument, value, least in (
            ("top_logprobs", top_logprobs, 1),
            ("parallel", parallel, 1),
            ("cache_bytes", cache_bytes, 0),
            ("context_window", context_window, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{argument} is {value}; expected at least {least}")
        loaded = not isinstance(model, str | os.PathLike)
        if loaded and not hasattr(model, "generate"):
            raise ConfigError(
                f"model is a {type(model).__name__}; expected a Hugging Face id, a path, or a "
                "loaded transformers model"
            )
        if loaded and (tokenizer is None or isinstance(tokenizer, str | os.PathLike)):
            raise ConfigError("a loaded model needs its loaded tokenizer: pass tokenizer=...")
        self._model: Any = model if loaded else None
        self._place = None if loaded else os.fspath(model)
        self._tokenizer = tokenizer
        self.name = name or _name(str(self._place or getattr(model, "name_or_path", "")), gguf_file)
        self._load_options: dict[str, Any] = {
            "gguf_file": gguf_file,
            "dtype": dtype,
            "device_map": device_map,
            "quantization_config": quantization_config,
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
            "revision": revision,
            "local_files_only": local_files_only,
            "token": SecretStr(token) if isinstance(token, str) else token,
            "options": dict(model_options or {}),
        }
        self._generation = dict(generation or {})
        self._chat_template = chat_template
        self._template_kwargs = {**THINKING, **(template_kwargs or {})}
        self.context_window = context_window
        self._top_logprobs = top_logprobs
        self._parallel = parallel
        self._cache_bytes = cache_bytes
        self._engine: _Engine | None = None
        self._loading: asyncio.Lock | None = None

    # -- contract ----------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        engine = await self._ready()
        template = self._chat_template or engine.tokenizer.chat_template
        return Capabilities(
            context_window=engine.window,
            top_logprobs=self._top_logprobs,
            requested_logprobs=self._top_logprobs,
            streamed_logprobs=True,
            in_process=True,
            drafts=True,
            supports_schema=True,
            device=engine.runner.thread.name,
            template=template if isinstance(template, str) else None,
            weights=_weights(engine.runner.model),
        )

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        engine = await self._ready()
        if self._chat_template is not None:
            text = chat_templates.render(
                self._chat_template, messages, self._template_kwargs, tools
            )
        else:
            text = chat_templates.apply(
                engine.tokenizer, messages, self._template_kwargs, tools, name=self.name
            )
        return Rendered(text, tokens=len(engine.vocabulary.encode(text)))

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        from glimp_integrations.backends.hf.request import Stream
        from glimp_integrations.backends.hf.sampling import Sampling
        from glimp_integrations.backends.hf.token_text import Ledger, Speller

        engine = await self._ready()
        ledger: Ledger = request.notes.setdefault("ids", Ledger())
        ids = ledger.ids(request.prompt, engine.vocabulary)
        window = engine.window
        report.prompt_tokens, report.completion_tokens = len(ids), 0
        if window is not None and len(ids) >= window:
            report.ended = "context"
            raise BackendError(
                f"the text has {len(ids):,} tokens, and {self.name} has a context window of "
                f"{window:,}",
                model=self.name,
                context_full=True,
            )
        speller = Speller(engine.vocabulary, ids)
        stream = Stream(
            list(ids),
            request.max_tokens,
            Sampling(
                request.temperature,
                request.top_p,
                request.seed,
                self._generation,
                await engine.bind(request.schema),
            ),
            await self._drafting(request),
        )
        try:
            await engine.run(lambda: engine.runner.open(stream))
            for number in range(request.max_tokens):
                drawn = await engine.next(stream)
                report.cached_tokens = stream.reused
                report.completion_tokens += 1
                # The end has a distribution, too: the end of a chain is a glimpse as well.
                measure = engine.measure(drawn) if request.logprobs else None
                if drawn.token in engine.ends:
                    report.ended = "eos"
                    yield Token("", entropy_fn=measure)
                    return
                written, text = speller.add(drawn.token)
                if written:
                    ledger.wrote(written, text)
                yield Token(text, entropy_fn=measure, pending=not written)
                if window is not None and len(ids) + number + 1 >= window:
                    report.ended = "context"
                    return
            report.ended = "length"
        finally:
            engine.submit(lambda: engine.runner.close(stream))

    async def tokenize(self, text: str) -> list[int]:
        return list((await self._ready()).vocabulary.encode(text))

    async def is_control(self, literal: str) -> bool:
        return (await self._ready()).vocabulary.is_control(literal)

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        io_loop.not_at_exit(self.aclose)
        if engine is not None:
            await engine.run(engine.runner.shut_down)

    # -- what it did -------------------------------------------------------------------------

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model since it was loaded."""
        return self._engine.runner.computed if self._engine else 0

    @property
    def kept_bytes(self) -> int:
        """Memory that KV caches hold between requests, in bytes."""
        return self._engine.runner.pool.bytes if self._engine else 0

    async def adrop_caches(self) -> None:
        """Give the memory of kept KV caches back."""
        if self._engine is not None:
            await self._engine.run(self._engine.runner.pool.clear)

    def drop_caches(self) -> None:
        """Synchronous :meth:`adrop_caches`."""
        io_loop.call(self.adrop_caches)

    # -- inside ------------------------------------------------------------------------------

    async def _ready(self) -> _Engine:
        if self._engine is None:
            self._loading = self._loading or asyncio.Lock()
            async with self._loading:
                if self._engine is None:
                    self._engine = await asyncio.to_thread(self._load)
                    io_loop.at_exit(self.aclose)
        return self._engine

    def _load(self) -> _Engine:
        try:
            from glimp_integrations.backends.hf import loading
        except ImportError as error:
            raise ConfigError(
                f"running {self.name} in this process needs transformers and torch "
                f"({error.name or error} is missing): pip install 'glimp-integrations[hf]'"
            ) from error
        model, tokenizer = self._model, self._tokenizer
        if self._place is not None:
            found = loading.load(self._source(), self.name)
            model, tokenizer = found.model, found.tokenizer
        return _Engine(model.eval(), tokenizer, self)

    def _source(self) -> Source:
        from glimp_integrations.backends.hf.loading import Source

        assert self._place is not None
        return Source(self._place, tokenizer=self._tokenizer, **self._load_options)

    async def _drafting(self, request: Request) -> Callable[[Stream], Any] | None:
        if request.draft is None:
            return None
        from glimp_integrations.backends.hf import speculative

        engine = await self._ready()
        if request.draft == "prompt_lookup":
            return lambda stream: speculative.PromptLookup(engine.runner, stream)
        if not isinstance(request.draft, HuggingFaceBackend):
            raise ConfigError(
                f"{request.draft.label} cannot draft for {self.name}: it does not run in this "
                "process"
            )
        small = await request.draft._ready()
        tokenizers = engine.tokenizers_for(small, (self.name, request.draft.name))
        return lambda stream: speculative.SmallModel(
            engine.runner, stream, small.runner, tokenizers
        )


class _Engine:
    """A loaded model: its runner, its vocabulary, and the ways to its thread."""

    def __init__(self, model: Any, tokenizer: Any, owner: HuggingFaceBackend) -> None:
        from glimp_integrations.backends.hf import device_thread, loading
        from glimp_integrations.backends.hf.runner import Runner
        from glimp_integrations.backends.hf.token_text import Vocabulary

        places = sorted({str(p.device) for p in model.parameters()} or {str(model.device)})
        limit = owner._cache_bytes
        if limit is None:
            limit = (loading.free_bytes(model.device) or 4 << 30) // 4
        self.window = owner.context_window or _window(model)
        self.tokenizer = tokenizer
        self.vocabulary: Vocabulary = Vocabulary(tokenizer)
        self.runner: Runner = Runner(
            model,
            name=owner.name,
            thread=device_thread.on(",".join(places)),
            parallel=owner._parallel,
            cache_bytes=limit,
        )
        self.ends = _ends(model, tokenizer, owner._generation)
        self._guide: LLTokenizer | None = None
        self._pairs: weakref.WeakKeyDictionary[_Engine, tuple[Any, Any] | None] = (
            weakref.WeakKeyDictionary()
        )

    async def bind(self, schema: Mapping[str, Any] | None) -> Binding | None:
        """What keeps a text within a schema."""
        if schema is None:
            return None
        from glimp_integrations.backends.hf.grammar import Binding, make_tokenizer

        if self._guide is None:
            # Read from the tokenizer once, beside the loop: it takes a second.
            self._guide = await asyncio.to_thread(
                make_tokenizer,
                self.tokenizer,
                int(self.runner.model.config.get_text_config().vocab_size),
                self.ends,
                self.runner.name,
            )
        return Binding(self._guide, schema)

    def submit(self, job: Callable[[], None]) -> None:
        self.runner.thread.submit(job)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job on the model's thread and wait for it."""

        def work(deliver: Callable[[T | Exception], None]) -> None:
            try:
                result = job()
            except Exception as error:
                deliver(error)
            else:
                deliver(result)

        return await self._asked(work)

    async def next(self, stream: Stream) -> Drawn:
        """The next token of a stream."""
        return await self._asked(lambda deliver: self.runner.want(stream, deliver))

    async def _asked(self, begin: Callable[[Callable[[T | Exception], None]], None]) -> T:
        """Begin something on the model's thread, and wait for what it delivers."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | Exception) -> None:
            if future.done():
                return  # whoever waited is gone
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        def deliver(result: T | Exception) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                loop.call_soon_threadsafe(settle, result)

        self.submit(lambda: begin(deliver))
        return await future

    def measure(self, drawn: Drawn) -> EntropyFunction:
        """H at a token's place; the logits stay on the device until then."""
        from glimp_integrations.backends.hf.sampling import entropy_of

        async def measured(estimator: Estimator, k: int) -> float:
            return await self.run(lambda: entropy_of(drawn.logits, estimator, k))

        return measured

    def tokenizers_for(self, small: _Engine, names: tuple[str, str]) -> tuple[Any, Any] | None:
        """Both tokenizers where they differ; ``None`` where ids mean the same."""
        from glimp_integrations.backends.hf.speculative import check_vocabularies

        if small not in self._pairs:
            same = check_vocabularies(self.tokenizer, small.tokenizer, names)
            self._pairs[small] = None if same else (self.tokenizer, small.tokenizer)
        return self._pairs[small]


def _name(place: str, gguf_file: str | None) -> str:
    shown = gguf_file or place
    if not shown:
        return "local model"
    is_path = os.path.isabs(os.path.expanduser(shown)) or shown.count("/") != 1
    return os.path.basename(shown.rstrip("/")).removesuffix(".gguf") if is_path else shown


def _window(model: Any) -> int | None:
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def _ends(model: Any, tokenizer: Any, options: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a sequence: the generation config's, else the tokenizer's."""
    from glimp_integrations.backends.hf.sampling import end_ids

    ends = options.get("eos_token_id", model.generation_config.eos_token_id)
    return frozenset(end_ids(tokenizer.eos_token_id if ends is None else ends))


def _weights(model: Any) -> str:
    """The method of quantisation, else the type of the weights."""
    quantised = getattr(model.config, "quantization_config", None)
    if quantised is not None and not isinstance(quantised, dict):
        quantised = quantised.to_dict()
    method = (quantised or {}).get("quant_method")
    return str(getattr(method, "value", method) or model.dtype).removeprefix("torch.")
