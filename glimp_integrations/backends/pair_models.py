"""The catalogue's models, run by llama.cpp in this process and fetched on first use."""

from __future__ import annotations

import asyncio
from pathlib import Path

from glimp_integrations.backends.llamacpp import LlamaCppBackend
from glimp_integrations.weights import ensure
from glimp_integrations.weights.memory import check_memory
from glimp_integrations.weights.pairs import ModelPair, PairModel

__all__ = ["CatalogueModel", "models_of"]


class CatalogueModel(LlamaCppBackend):
    """One model of a pair.

    Before the first of the two is fetched, memory is asked for both: whoever has room for one of
    them only is told at once, in bytes.

    Args:
        pair: The pair.
        model: The one of its models that this is.
    """

    def __init__(self, pair: ModelPair, model: PairModel) -> None:
        super().__init__(
            model.file.filename, name=model.file.name, context_window=pair.context_window
        )
        self._pair = pair
        self._model = model
        self.partner: CatalogueModel | None = None

    def _sizes(self) -> tuple[int, int | None]:
        return self._model.file.size, self._model.cache_bytes  # known before it is fetched

    async def _locate(self) -> Path:
        waiting = [self]
        if self.partner is not None and self.partner._server is None:
            waiting.append(self.partner)
        needed = {model.name: self._pair.memory_of(model._model) for model in waiting}
        await asyncio.to_thread(check_memory, needed)
        return await asyncio.to_thread(ensure, self._model.file, command=self._pair.pull_command)


def models_of(pair: ModelPair) -> tuple[CatalogueModel, CatalogueModel]:
    """New backends for the two models of a pair. This loads nothing yet."""
    small, large = (CatalogueModel(pair, model) for model in pair.models)
    small.partner, large.partner = large, small
    return small, large
