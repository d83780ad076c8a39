"""A model that transformers runs in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from glimp_integrations import forks, io_loop
from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import (
    Backend,
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
)
from glimp_integrations.backends.chat_templates import THINKING
from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.method.sampling import FURTHER_SAMPLING

if TYPE_CHECKING:
    from glimp_integrations.backends.hf.engine import Engine, MakeDrafter
    from glimp_integrations.backends.hf.loading import Source

__all__ = ["HuggingFaceBackend"]


class HuggingFaceBackend(Backend):
    """A causal language model on transformers and PyTorch, loaded on first use.

    KV caches are kept from step to step and from call to call, so a model that takes over reads
    only what is new. H is computed from the whole vocabulary, on the model's device, at the
    beginning of steps only. Sampling follows the model's ``generation_config``; the router's
    settings override it. ``timeout`` does not apply, because nothing here waits for a
    network.

    Args:
        model: A hub id, a folder, the path of a GGUF file, or a loaded model, which needs its
            loaded ``tokenizer``, too.
        tokenizer: The id or folder of a tokenizer, or a loaded one; by default the model's own.
        name: The name shown in traces.
        gguf_file: A GGUF file inside the repository or folder ``model``.
        dtype: ``"auto"`` (the checkpoint's; float32 for GGUF), a name such as ``"bfloat16"``, or
            a ``torch.dtype``. bfloat16 is much faster than float32, also on many CPUs.
        device_map: Passed to ``from_pretrained``; by default the model goes to this machine's
            accelerator, else to the CPU.
        quantization_config: Passed to ``from_pretrained``.
        attn_implementation: Passed to ``from_pretrained``.
        revision: Passed to ``from_pretrained``.
        local_files_only: Passed to ``from_pretrained``.
        trust_remote_code: Run code that comes with the model; off by default.
        token: The access token for gated models; by default what ``hf auth login`` stored. Pickles
            leave it out.
        model_options: Further arguments of ``AutoModelForCausalLM.from_pretrained``.
        generation: Fields of ``GenerationConfig`` that override the model's own, such as
            ``{"repetition_penalty": 1.05}``.
        chat_template: Jinja source, or a function from messages (and ``tools=...``, where there
            are any) to the prompt.
        template_kwargs: Arguments of the template; thinking is switched on by default.
        context_window: The context window in tokens; by default what the model's config says.
        top_logprobs: k for the estimators that use the likeliest tokens only.
        parallel: The largest number of conversations in one pass.
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
        _check_limits(
            top_logprobs=(top_logprobs, 1),
            parallel=(parallel, 1),
            cache_bytes=(cache_bytes, 0),
            context_window=(context_window, 1),
        )
        loaded = _is_loaded(model, tokenizer)
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
        self._engine: Engine | None = None
        self._loading = forks.LoopLock()
        forks.in_child(self)

    def __getstate__(self) -> dict[str, Any]:
        if self._engine is not None:
            raise ConfigError(
                f"{self.label} is loaded, and a loaded model cannot be pickled. Name the model by "
                "a model string, such as 'hf:ORG/NAME', or pickle it before its first use"
            )
        # A pickle is stored, or sent to another process, so it holds no secrets. Whoever loads it
        # has a token of their own, from `hf auth login` or HF_TOKEN.
        return {**vars(self), "_load_options": {**self._load_options, "token": None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        forks.in_child(self)

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
            sampling=frozenset(FURTHER_SAMPLING),
            raw_under_penalties=True,
            device=engine.runner.thread.name,
            template=template if isinstance(template, str) else None,
            weights=engine.weights,
        )

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        engine = await self._ready()
        if self._chat_template is not None:
            text = await chat_templates.arender(
                self._chat_template, messages, self._template_kwargs, tools
            )
        else:
            text = await chat_templates.aapply(
                engine.tokenizer, messages, self._template_kwargs, tools, name=self.name
            )
        return Rendered(text, tokens=len(engine.vocabulary.encode(text)))

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        engine = await self._ready()
        history = engine.history(request)
        ids = history.ids(request.prompt, engine.vocabulary)
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
        detokenizer = engine.detokenizer(ids)
        stream = await engine.stream(request, ids, await self._make_drafter(request))
        try:
            await engine.run(lambda: engine.runner.open(stream))
            for number in range(request.max_tokens):
                sampled = await engine.next(stream)
                report.cached_tokens = stream.reused
                report.completion_tokens += 1
                # The end of a sequence has a distribution, too: where a chain ends at the start
                # of a step, its H is the glimpse.
                measured: dict[str, Any] = {}
                if request.logprobs:
                    measured = {
                        "entropy_fn": engine.entropy_function(sampled),
                        "logprobs_fn": engine.logprobs_function(sampled),
                        "sure": sampled.sure,
                    }
                if sampled.token in engine.ends:
                    report.ended = "eos"
                    yield Token("", **measured)
                    return
                written, text = detokenizer.add(sampled.token)
                if written:
                    history.append(written, text)
                yield Token(text, pending=not written, **measured)
                if window is not None and len(ids) + number + 1 >= window:
                    report.ended = "context"
                    return
            report.ended = "length"
        finally:
            # Not awaited: a generator that is being closed must not wait for a pass to end.
            engine.submit(lambda: engine.runner.close(stream))

    async def tokenize(self, text: str) -> list[int]:
        return list((await self._ready()).vocabulary.encode(text))

    async def own_control_tokens(self) -> set[str]:
        return (await self._ready()).vocabulary.control_tokens()

    async def aclose(self) -> None:
        engine, self._engine = self._engine, None
        io_loop.not_at_exit(self.aclose)
        if engine is not None:
            await engine.run(engine.runner.shut_down)

    def forget_parent(self) -> None:
        """Called in a forked process: keep the weights, and drop the parent's requests."""
        engine, self._engine = self._engine, None
        if engine is not None:
            forks.keep(engine)
            self._model, self._tokenizer = engine.runner.model, engine.tokenizer
            self._place = None

    # -- what it did -------------------------------------------------------------------------

    @property
    def computed_tokens(self) -> int:
        """The number of tokens that went through the model since it was loaded."""
        return self._engine.runner.forward.computed if self._engine else 0

    @property
    def kept_bytes(self) -> int:
        """The memory that KV caches hold between requests, in bytes."""
        return self._engine.runner.pool.bytes if self._engine else 0

    async def adrop_caches(self) -> None:
        """Drop the KV caches that are kept between requests."""
        if self._engine is not None:
            await self._engine.run(self._engine.runner.pool.clear)

    def drop_caches(self) -> None:
        """Synchronous :meth:`adrop_caches`."""
        io_loop.call(self.adrop_caches)

    # -- inside ------------------------------------------------------------------------------

    async def _ready(self) -> Engine:
        if self._engine is None:
            async with self._loading.here():
                if self._engine is None:
                    self._engine = await asyncio.to_thread(self._loaded)
                    io_loop.at_exit(self.aclose)
        return self._engine

    def _loaded(self) -> Engine:
        # All of it: transformers imports most of its parts when it needs them.
        with forks.LOADING:
            return self._load()

    def _load(self) -> Engine:
        try:
            from glimp_integrations.backends.hf import loading
            from glimp_integrations.backends.hf.engine import Engine
        except ImportError as error:
            raise ConfigError(
                f"running {self.name} in this process needs transformers and torch "
                f"({error.name or error} is missing): pip install 'glimp-integrations[hf]'"
            ) from error
        model, tokenizer = self._model, self._tokenizer
        if self._place is not None:
            loaded = loading.load(self._source(), self.name)
            model, tokenizer = loaded.model, loaded.tokenizer
        return Engine(
            model.eval(),
            tokenizer,
            name=self.name,
            context_window=self.context_window,
            generation=self._generation,
            parallel=self._parallel,
            cache_bytes=self._cache_bytes,
        )

    def _source(self) -> Source:
        from glimp_integrations.backends.hf.loading import Source

        assert self._place is not None
        return Source(self._place, tokenizer=self._tokenizer, **self._load_options)

    async def _make_drafter(self, request: Request) -> MakeDrafter | None:
        if request.draft is None:
            return None
        engine = await self._ready()
        if request.draft == "prompt_lookup":
            return engine.draft_by_lookup()
        if not isinstance(request.draft, HuggingFaceBackend):
            raise ConfigError(
                f"{request.draft.label} cannot draft for {self.name}: it does not run in this "
                "process"
            )
        small = await request.draft._ready()
        return engine.draft_with(small, (self.name, request.draft.name))


def _check_limits(**limits: tuple[int | None, int]) -> None:
    """Check arguments that are numbers; each with its least value."""
    for argument, (value, least) in limits.items():
        if value is not None and value < least:
            raise ConfigError(f"{argument} is {value}; expected at least {least}")


def _is_loaded(model: Any, tokenizer: Any) -> bool:
    """Whether ``model`` is a loaded model, and not the place of one.

    Raises:
        ConfigError: It is neither, or its loaded tokenizer is missing.
    """
    if isinstance(model, str | os.PathLike):
        return False
    if not hasattr(model, "generate"):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a Hugging Face id, a path, or a "
            "loaded transformers model"
        )
    if tokenizer is None or isinstance(tokenizer, str | os.PathLike):
        raise ConfigError("a loaded model needs its loaded tokenizer: pass tokenizer=...")
    return True


def _name(place: str, gguf_file: str | None) -> str:
    shown = gguf_file or place
    if not shown:
        return "local model"
    is_path = os.path.isabs(os.path.expanduser(shown)) or shown.count("/") != 1
    return os.path.basename(shown.rstrip("/")).removesuffix(".gguf") if is_path else shown
