"""Streams that LlamaIndex observes, and that end when their reader closes them.

LlamaIndex's callback decorators wrap a stream in a generator that never closes it, and handlers
may keep that generator alive. So the stream is held here, outside, and closed by the hand that
closes the outer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

__all__ = ["Around", "Held"]

T = TypeVar("T")


class Around(AsyncGenerator[T, None]):
    """A stream around others, which end with it.

    No async generator of Python's: a loop that ends closes all of those it knows at the same time,
    and one that another is just closing says so on standard error.

    Args:
        stream: What it yields.
        *inner: Closed after it.
        seen: Called with every item, before its reader has it.
    """

    def __init__(
        self,
        stream: AsyncGenerator[T, None],
        *inner: Callable[[], AsyncGenerator[Any, None]],
        seen: Callable[[T], None] | None = None,
    ) -> None:
        self._stream = stream
        self._inner = inner
        self._seen = seen

    async def asend(self, value: None) -> T:
        """The next item; nothing can be sent."""
        try:
            item = await anext(self._stream)
            if self._seen is not None:
                self._seen(item)
        except BaseException:
            await self.aclose()
            raise
        return item

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None, /) -> T:
        """End the stream, and raise."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """End the streams."""
        await self._stream.aclose()
        for inner in self._inner:
            await inner().aclose()


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

        return Around(await observe(made)(*args, **kwargs), lambda: self._stream)

    def _closing(self, observed: Generator[Any, None, None]) -> Generator[Any, None, None]:
        try:
            yield from observed
        finally:
            self._stream.close()
