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
    "CacheEntry",
    "Pool",
    "can_crop",
    "common_prefix",
    "crop",
    "is_mergeable",
    "merge",
    "set_recording",
    "size",
    "split",
]

_log = logging.getLogger(__name__)

# Computing a shared beginning shorter than this (in tokens) again is faster than copying it.
_WORTH_COPYING = 32
_MERGEABLE = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(slots=True)
class CacheEntry:
    """A cache and the ids whose keys and values it holds."""

    ids: list[int]
    cache: Any
    bytes: int = 0


@dataclass(slots=True)
class Pool:
    """Caches between requests, least recently used first.

    Args:
        limit: The bytes they may hold together.
        name: The model's name, for messages.
    """

    limit: int
    name: str
    _entries: list[CacheEntry] = field(default_factory=list)
    _has_warned: bool = False

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(entry.bytes for entry in self._entries)

    def take(self, ids: Sequence[int]) -> CacheEntry | None:
        """The cache with the longest common beginning with ``ids``, cropped to that beginning.

        At least the last id is left out, because the model has to read it to say what follows.
        The cache leaves the pool: two requests that extend the same cache would overwrite each
        other's keys and values.

        Returns:
            ``None`` where no cache is worth using.
        """
        shared = {id(e): min(common_prefix(e.ids, ids), len(ids) - 1) for e in self._entries}
        # Of equally good ones the shortest is preferred: least has to be cut off it.
        candidates = sorted(
            (entry for entry in self._entries if shared[id(entry)] > 0),
            key=lambda entry: (shared[id(entry)], -len(entry.ids)),
            reverse=True,
        )
        for entry in candidates:
            common = shared[id(entry)]
            surplus = len(entry.ids) - common
            if surplus and not can_crop(entry.cache):
                self._warn_once()
                continue
            # Where most would be cut off, only the beginning is shared (a system prompt, say), and
            # this is another conversation: it gets a copy, and the longer one keeps its cache.
            # Where little is cut off, this conversation has dropped its end (a step that was
            # thrown away, say), so nobody will ask for that end again.
            if surplus > common:
                if common < _WORTH_COPYING:
                    continue
                entry = CacheEntry(list(entry.ids), copy.deepcopy(entry.cache))
            else:
                self._entries.remove(entry)
            if surplus and not crop(entry.cache, surplus):
                continue
            entry.ids = list(ids[:common])
            return entry
        return None

    def give(self, entry: CacheEntry) -> None:
        """Keep a cache; the least recently used ones make room for it."""
        entry.bytes = size(entry.cache)
        if entry.bytes > self.limit or not entry.ids:
            return
        while self._entries and self.bytes + entry.bytes > self.limit:
            self._entries.pop(0)
        self._entries.append(entry)

    def clear(self) -> None:
        """Drop all caches."""
        self._entries.clear()

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s keeps a state that cannot be rolled back (recurrent or sliding window): "
                "where a text changes instead of growing, it is read again from its beginning",
                self.name,
            )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix, by bisection.

    Comparing slices of lists is much faster than a loop over ids, and texts are long.
    """
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

    They cannot be taken from a recurrent state, which does not know single tokens any more, nor
    from a sliding window that has dropped its first tokens: these would have to come back.
    """
    if not getattr(cache, "is_croppable", True):
        return False
    return not any(
        layer.get_seq_length() >= layer.sliding_window and not getattr(layer, "record_past", False)
        for layer in cache.layers
        if isinstance(layer, DynamicSlidingWindowLayer)
    )


def set_recording(cache: Any, *, on: bool) -> None:
    """Let sliding windows keep what they slide over, so that rejected drafts can be taken back."""
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
    """Bytes of all tensors of a cache. A view counts with all the memory it keeps alive."""
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
        lengths: How many tokens each of them has read.
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
    """The rows of a batched cache, each without its padding.

    They are copied: a view of one row would keep the whole batch in memory.
    """
    caches = [new() for _ in lengths]
    for index, layer in enumerate(merged.layers):
        width = layer.keys.shape[-2]
        for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            own = cache.layers[index]
            own.lazy_initialization(layer.keys, layer.values)
            # A sliding window holds the last tokens only. It may be narrower than the row is long;
            # then all of it belongs to the row.
            begin = max(0, width - length)
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
