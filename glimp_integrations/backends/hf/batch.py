"""Several texts that get their next token in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from glimp_integrations.backends.hf.caches import merge, split
from glimp_integrations.backends.hf.forward import ForwardPass
from glimp_integrations.backends.hf.request import Stream

__all__ = ["Batch"]


@dataclass(slots=True, eq=False)
class Batch:
    """Texts computed together, one a row, and their common cache.

    Decoding one token reads all of a model's weights, so a pass for eight texts takes little
    longer than a pass for one. Putting caches together and taking them apart copies them, so a
    batch is kept from token to token for as long as its rows stay the same.

    Attributes:
        rows: While they are here, their own ``cache`` is ``None``.
        cache: Shorter texts are padded on the left, so that all rows end at the same place.
        mask: 0 for padding and 1 for text, shape ``(rows, tokens)``.
    """

    rows: list[Stream]
    cache: Any
    mask: torch.Tensor

    @classmethod
    def assemble(cls, streams: list[Stream], forward: ForwardPass) -> Self:
        """Put the caches of streams together; all but the last id of each have been read."""
        lengths = [s.read_count for s in streams]
        cache = merge([s.cache for s in streams], lengths, forward.new_cache)
        mask = torch.zeros(
            (len(streams), max(lengths)), dtype=torch.long, device=forward.model.device
        )
        for row, length in zip(mask, lengths, strict=True):
            row[len(row) - length :] = 1
        for stream in streams:
            stream.cache = None
        return cls(list(streams), cache, mask)

    def step(self, forward: ForwardPass) -> torch.Tensor:
        """Read the last id of every row; logits of shape ``(rows, vocabulary)``."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=-1)
        device = forward.model.device
        logits = forward.run(
            torch.tensor([[s.ids[-1]] for s in self.rows], device=device),
            torch.tensor([[s.read_count] for s in self.rows], device=device),
            self.cache,
            self.mask,
        )[:, -1]
        for stream in self.rows:
            stream.read_count += 1
        return logits

    def dissolve(self, forward: ForwardPass) -> None:
        """Give every row a cache of its own back."""
        caches = split(self.cache, [s.read_count for s in self.rows], forward.new_cache)
        for row, cache in zip(self.rows, caches, strict=True):
            row.cache = cache

    def forget(self) -> None:
        """Drop the caches of all rows, because half a pass has left them in an unknown state."""
        for row in self.rows:
            row.forget()
