"""What can be said of a pair before it answers: asked of the models once, for frameworks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from glimp_integrations import forks
from glimp_integrations.backends.base import Backend
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.method.policy import Author
from glimp_integrations.runtime.failures import asked

__all__ = ["PairInfo", "ask_once"]

_HELLO = check_messages("Hello")


@dataclass(frozen=True, slots=True)
class PairInfo:
    """What both models have in common.

    Attributes:
        context_window: The smaller of the two, in tokens; ``None``: neither is known.
        thinks_in_tags: A template knows think tags; the other model then writes them too.
        shows_tools: Whose templates show tools.
    """

    context_window: int | None
    thinks_in_tags: bool
    shows_tools: frozenset[Author]


_asking: dict[tuple[int, int], asyncio.Task[PairInfo]] = {}


async def ask_once(small: Backend, large: Backend) -> PairInfo:
    """:func:`ask`; who comes while the models are asked waits for the same answer."""
    pair = id(small), id(large)
    if pair not in _asking:
        _asking[pair] = asyncio.create_task(ask(small, large))
        _asking[pair].add_done_callback(lambda _: _asking.pop(pair))
    return await asyncio.shield(_asking[pair])


def _forget_parent() -> None:
    forks.keep(*_asking.values())
    _asking.clear()


forks.in_child(_forget_parent)


async def ask(small: Backend, large: Backend) -> PairInfo:
    """Ask both models, one after the other; the first request loads them.

    Raises:
        BackendError: One cannot be reached.
        UnsuitableEndpointError: One cannot be used.
    """
    windows, tags, tools = [], [], set()
    models: dict[Author, Backend] = {"small": small, "large": large}
    for author, backend in models.items():
        with asked(author, backend):
            windows.append((await backend.capabilities()).context_window)
            tags.append((await prompt.build(backend, _HELLO, must_fit=False)).tags)
            if await prompt.shows_tools(backend):
                tools.add(author)
    known_windows = [window for window in windows if window is not None]
    return PairInfo(min(known_windows, default=None), any(tags), frozenset(tools))
