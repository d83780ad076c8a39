"""Streams that LlamaIndex observes, and that end when their reader closes them.

LlamaIndex's callback decorators wrap a stream in a generator that never closes it, and handlers
may keep that generator alive. So the stream is held here, outside, and closed by the hand that
closes the outer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

__all__ = ["Held"]


class Held:
    """A stream that is made when an observer is there.

    Args:
        make: Makes the stream; what it raises is observed, too.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._stream: Any = None

    def stream(
        self, observe: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Generator[Any, None, None]:
        """The observed stream.

        Args:
            observe: LlamaIndex's decorator.
            *args: What the decorated method is called with: the LLM, and what it is asked.
            **kwargs: Likewise.
        """

        def made(*_: Any, **__: Any) -> Any:
            self._stream = self._make()
            return self._stream

        return self._closing(observe(made)(*args, **kwargs))

    async def astream(
        self, observe: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Asynchronous :meth:`stream`."""

        async def made(*_: Any, **__: Any) -> Any:
            self._stream = self._make()
            return self._stream

        return self._aclosing(await observe(made)(*args, **kwargs))

    def _closing(self, observed: Generator[Any, None, None]) -> Generator[Any, None, None]:
        try:
            yield from observed
        finally:
            self._stream.close()

    async def _aclosing(self, observed: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        try:
            async for response in observed:
                yield response
        finally:
            await observed.aclose()
            await self._stream.aclose()
