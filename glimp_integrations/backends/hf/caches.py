"""KV caches that outlive a request, and their arithmetic.

Read with ``transformers.cache_utils``: a cache is a list of layers. Full-attention and
sliding-window layers hold ``keys`` and ``values`` of shape ``(batch, heads, tokens, head_dim)``;
recurrent layers hold states that no longer know single tokens.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = [
    "Kept",
    "Pool",
    "can_crop",
    "common_prefix",
    "crop",
    "is_mergeable",
    "merge",
    "record",
    "size",
    "split",
]

_log = logging.getLogger(__name__)

# A shared beginning shorter than this is computed again sooner than it is copied.
_WORTH_COPYING = 32
_MERGEABLE = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(slots=True)
class Kept:
    """A cache and the ids whose keys and values it holds."""

    ids: list[int]
    cache: Any
    bytes: int = 0


@dataclass(slots=True)
class Pool:
    """Caches between requests, least recently used first.

    Args:
        limit: Bytes they may hold together.
        name: Of the model, for messages.
    """

    limit: int
    name: str
    _kept: list[Kept] = field(default_factory=list)
    _told: bool = False

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(kept.bytes for kept in self._kept)

    def take(self, ids: Sequence[int]) -> Kept | None:
        """The cache that knows most of the beginning of ``ids``, cropped to it.

        At least the last id is left out: the model has to read it to say what follows.
        """
        shared = {id(k): min(common_prefix(k.ids, ids), len(ids) - 1) for k in self._kept}
        # Of equally good ones the one that fits best: nothing has to be cut off it.
        candidates = sorted(
            (kept for kept in self._kept if shared[id(kept)] > 0),
            key=lambda kept: (shared[id(kept)], -len(kept.ids)),
            reverse=True,
        )
        for kept in candidates:
            common = shared[id(kept)]
            surplus = len(kept.ids) - common
            if surplus and not can_crop(kept.cache):
                self._say_once()
                continue
            # A short beginning in common (a system prompt) is copied, so that the longer
            # conversation keeps its own; a short end that was dropped is simply cut off.
            if surplus > common:
                if common < _WORTH_COPYING:
                    continue
                kept = Kept(list(kept.ids), copy.deepcopy(kept.cache))
            else:
                self._kept.remove(kept)
            if surplus and not crop(kept.cache, surplus):
                continue
            kept.ids = list(ids[:common])
            return kept
        return None

    def give(self, kept: Kept) -> None:
        """Keep a cache; the least recently used ones make room for it."""
        kept.bytes = size(kept.cache)
        if kept.bytes > self.limit or not kept.ids:
            return
        while self._kept and self.bytes + kept.bytes > self.limit:
            self._kept.pop(0)
        self._kept.append(kept)

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()

    def _say_once(self) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "%s keeps a state that cannot be rolled back (recurrent or sliding window): "
                "where a text changes instead of growing, it is read again from its beginning",
                self.name,
            )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def can_crop(cache: Any) -> bool:
    """Whether the last tokens of a cache can be taken back.

    Not from a recurrent state, and not from a window that has slid over its first tokens.
    """
    if not getattr(cache, "is_croppable", True):
        return False
    return not any(
        layer.get_seq_length() >= layer.sliding_window and not getattr(layer, "record_past", False)
        for layer in cache.layers
        if isinstance(layer, DynamicSlidingWindowLayer)
    )


def record(cache: Any, *, on: bool) -> None:
    """Let sliding windows keep what they slide over, so that a draft can be taken back."""
    for layer in cache.layers:
        if not hasattr(layer, "record_past"):
            continue
        if layer.record_past and not on and getattr(layer, "is_croppable", True):
            layer.crop(0)  # forgets what was recorded: the next pass expects a window's worth
        layer.record_past = on


def crop(cache: Any, surplus: int) -> bool:
    """Remove the last ``surplus`` tokens; ``False`` if the cache cannot (and is now useless)."""
    try:
        cache.crop(-surplus)  # negative: how many to remove
    except (RuntimeError, ValueError, NotImplementedError, AttributeError):
        return False
    return True


def size(cache: Any) -> int:
    """Bytes of all tensors of a cache. A view counts with all it keeps alive."""
    return sum(tensor.untyped_storage().nbytes() for tensor in _tensors(cache))


def _tensors(cache: Any) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        for value in vars(layer).values():
            for item in value.values() if isinstance(value, dict) else (value,):
                if isinstance(item, torch.Tensor):
                    yield item


def is_mergeable(cache: Any) -> bool:
    """Whether rows of such caches can be computed together."""
    return all(type(layer) in _MERGEABLE and layer.is_initialized for layer in cache.layers)


def merge(caches: Sequence[Any], lengths: Sequence[int], new: Callable[[], Any]) -> Any:
    """One batched cache from several of one row each; shorter ones are padded on the left.

    Args:
        caches: Mergeable caches.
        lengths: Tokens each of them has read.
        new: Makes an empty cache.
    """
    merged = new()
    for layer, rows in zip(
        merged.layers, zip(*(c.layers for c in caches), strict=True), strict=True
    ):
        layer.lazy_initialization(rows[0].keys, rows[0].values)
        layer.keys = _pad([row.keys for row in rows])
        layer.values = _pad([row.values for row in rows])
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = max(lengths)
    return merged


def split(merged: Any, lengths: Sequence[int], new: Callable[[], Any]) -> list[Any]:
    """The rows of a batched cache, each without its padding and in memory of its own."""
    caches = [new() for _ in lengths]
    for index, layer in enumerate(merged.layers):
        held = layer.keys.shape[-2]
        for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            own = cache.layers[index]
            own.lazy_initialization(layer.keys, layer.values)
            # A window holds the last tokens only: what it has of a long row is all of it.
            begin = max(0, held - length)
            own.keys = layer.keys[row : row + 1, :, begin:].clone()
            own.values = layer.values[row : row + 1, :, begin:].clone()
            if isinstance(own, DynamicSlidingWindowLayer):
                own.cumulative_length = length
    return caches


def _pad(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    longest = max(row.shape[-2] for row in rows)
    first = rows[0]
    out = first.new_zeros((len(rows), first.shape[1], longest, first.shape[3]))
    for target, row in zip(out, rows, strict=True):
        target[:, longest - row.shape[-2] :] = row[0]
    return out
