"""Pairs of models of random weights, run by llama.cpp or by transformers in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations import io_loop
from glimp_integrations.backends import (
    Backend,
    HuggingFaceBackend,
    LlamaCppBackend,
    OpenAIBackend,
)
from random_weights import weights
from random_weights.vocabularies import QWEN3, R1, Family

PAIRS: dict[str, tuple[Family, Family]] = {
    "qwen3": (QWEN3, QWEN3),
    "r1": (R1, R1),
    "both": (QWEN3, R1),
}
"""The small and the large model's family. Those of two families have two vocabularies."""

NO_THINKING = {"enable_thinking": False}
# llama.cpp computes a token differently in a batch; read one by one, all strategies compute alike.
_ONE_BY_ONE = {"n_ubatch": 1, "n_batch": 32, "no_extra_bufts": True, "warmup": False}


@dataclass(frozen=True)
class _Model:
    family: Family
    seed: int
    tidy: bool


@dataclass
class Models:
    """All models of one engine, each loaded once, on its first use."""

    engine: str
    _loaded: dict[Any, Any] = field(default_factory=dict)

    @property
    def strategies(self) -> tuple[str, ...]:
        """All that this engine has."""
        if self.engine == "llamacpp":
            return ("fused", "two_request", "overlap")
        return ("in_process", "fused", "two_request")

    @property
    def keeps_tokens(self) -> bool:
        """Whether what a model wrote is never read as other tokens."""
        return self.engine == "hf"

    def pair(
        self, name: str, strategy: str = "auto", *, thinks: bool = True, tidy: bool = True
    ) -> tuple[Backend, Backend]:
        """The small and the large model of a pair.

        Args:
            name: Of :data:`PAIRS`.
            strategy: For ``"overlap"`` the models are servers that are said to be apart.
            thinks: ``False``: the template is told to switch thinking off.
            tidy: Whether they write words only.
        """
        small, large = PAIRS[name]
        return (
            self._backend(_Model(small, 0, tidy), strategy, thinks),
            self._backend(_Model(large, 1, tidy), strategy, thinks),
        )

    def _backend(self, model: _Model, strategy: str, thinks: bool) -> Backend:
        apart = strategy == "overlap"
        key = (model, thinks, apart)
        if key not in self._loaded:
            options: dict[str, Any] = {} if thinks else {"template_kwargs": NO_THINKING}
            if self.engine == "hf":
                self._loaded[key] = self._of_transformers(model, options)
            elif apart:
                self._loaded[key] = self._apart(model, thinks, options)
            else:
                self._loaded[key] = LlamaCppBackend(
                    weights.gguf_file(model.family, model.seed, tidy=model.tidy),
                    context_window=weights.WINDOW,
                    parallel=1,
                    threads=1,
                    server_options=_ONE_BY_ONE,
                    **options,
                )
        backend: Backend = self._loaded[key]
        return backend

    def _of_transformers(self, model: _Model, options: dict[str, Any]) -> Backend:
        if (shared := self._loaded.get(model)) is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            place = weights.folder(model.family, model.seed, tidy=model.tidy)
            shared = (
                AutoModelForCausalLM.from_pretrained(place, dtype="float32"),
                AutoTokenizer.from_pretrained(place),
            )
            self._loaded[model] = shared
        return HuggingFaceBackend(
            *shared, name=f"{model.family.name}-{model.seed}", cache_bytes=1 << 28, **options
        )

    def _apart(self, model: _Model, thinks: bool, options: dict[str, Any]) -> Backend:
        """The same server, as if it ran on a device of its own."""
        served: Any = self._backend(model, "auto", thinks)
        io_loop.call(served.capabilities)  # it starts
        return OpenAIBackend(
            base_url=f"{served.url}/v1",
            api_key=served._api_key(),
            device=f"device {model.seed}",
            **options,
        )

    def close(self) -> None:
        for backend in reversed([b for b in self._loaded.values() if isinstance(b, Backend)]):
            backend.close()


@contextmanager
def models(engine: str) -> Iterator[Models]:
    """All models of ``"llamacpp"`` or ``"hf"``."""
    made = Models(engine)
    try:
        yield made
    finally:
        made.close()
