"""Room for many conversations at once in models that llama.cpp runs in this process."""

from __future__ import annotations

from collections.abc import Iterable

from glimp_integrations.backends.base import Backend
from glimp_integrations.backends.llamacpp import LlamaCppBackend
from glimp_integrations.weights import memory

__all__ = ["make_room"]

_FEWEST_SLOTS = 4  # what a model has that nobody makes room in
_MOST_SLOTS = 256  # of llama.cpp
_SHARE = 0.5  # of the memory that weights leave; the rest is for the system and other programs


def make_room(models: Iterable[Backend], conversations: int) -> None:
    """Give a context window to each of so many conversations, in models not loaded yet.

    All conversations of a model share one KV cache. If it is too small for those that run, one of
    them fails as if it were too long. Where memory is known and holds fewer whole windows, there
    are as many as it holds, and one at least.

    Args:
        models: They are loaded together. Others than those of llama.cpp are left as they are.
        conversations: How many there are at a time.
    """
    own = [model for model in dict.fromkeys(models) if isinstance(model, LlamaCppBackend)]
    if not own:
        return
    windows, free = conversations, memory.free_memory()
    sizes = {model: model.memory() for model in own}
    if free is not None:
        left = free - sum(fixed for fixed, _ in sizes.values())
        window = sum(each or 0 for _, each in sizes.values())
        windows = min(windows, max(1, int(left * _SHARE) // max(1, window)))
    for model, (_, each) in sizes.items():
        # Of a model whose cache may have any size, there is no more of it than there always was.
        whole = windows if each is not None or free is None else 1
        slots = min(conversations, max(whole, _FEWEST_SLOTS), _MOST_SLOTS)
        model.make_room(whole, slots)
