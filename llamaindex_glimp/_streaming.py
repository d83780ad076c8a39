"""Streams that LlamaIndex observes, and that stop the models when their reader closes them.

LlamaIndex's callback decorators wrap a stream in a generator that does not close it, and event
handlers may keep that generator alive. So the inner stream is kept here as well, outside of the
decorator's generator: closing the outer stream closes the inner one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

__all__ = ["ClosingStream", "ObservedStream"]

T = TypeVar("T")


class ClosingStream(AsyncGenerator[T, None]):
    """A stream that closes other streams when it ends.

    This is a class, not an async generator function. An event loop that ends closes all async
    generators that it knows at the same time, and one that another is just closing prints an error.

    Args:
        stream: The stream whose items are yielded.
        *inner: Functions that return the streams to close after it.
        on_item: Called with every item before the reader gets it.
    """

    def __init__(
        self,
        stream: AsyncGenerator[T, None],
        *inner: Callable[[], AsyncGenerator[Any, None]],
        on_item: Callable[[T], None] | None = None,
    ) -> None:
        self._stream = stream
        self._inner = inner
        self._on_item = on_item

    async def asend(self, value: None) -> T:
        """Return the next item. Nothing can be sent."""
        try:
            item = await anext(self._stream)
            if self._on_item is not None:
                self._on_item(item)
        except BaseException:
            await self.aclose()
            raise
        return item

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None, /) -> T:
        """End the streams, and raise the exception."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """End the streams."""
        await self._stream.aclose()
        for inner in self._inner:
            await inner().aclose()


class ObservedStream:
    """A stream that one of LlamaIndex's decorators observes.

    It is closed when the reader closes the observed stream. It is made only when the decorator
    calls for it, so that an error while it is made is observed as well.

    Args:
        make: Makes the stream.
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
            *args: The arguments of the decorated method: the LLM, then messages or a prompt.
            **kwargs: The method's keyword arguments.
        """

        def make_stream(*_: Any, **__: Any) -> Any:
            self._stream = self._make()
            return self._stream

        return self._closing(observe(make_stream)(*args, **kwargs))

    async def astream(
        self, observe: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Asynchronous :meth:`stream`."""

        async def make_stream(*_: Any, **__: Any) -> Any:
            self._stream = self._make()
            return self._stream

        return ClosingStream(await observe(make_stream)(*args, **kwargs), lambda: self._stream)

    def _closing(self, observed: Generator[Any, None, None]) -> Generator[Any, None, None]:
        try:
            yield from observed
        finally:
            self._stream.close()
