"""What can go wrong, and whose fault it was.

::

    GlimpError
    ├── ConfigError                  the caller's mistake: a value, a conversation, a missing extra
    └── ModelError                   a model cannot be used, or failed: names it and its role
        ├── UnsuitableEndpointError  a server that cannot do what routing needs
        └── BackendError             a request to a model failed

Every message says what was wrong, with which value, and what to do about it.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = [
    "BackendError",
    "ConfigError",
    "GlimpError",
    "ModelError",
    "PartialAnswer",
    "UnsuitableEndpointError",
]


class PartialAnswer(Protocol):
    """What was written before a failure: a ``RoutedAnswer``, as far as errors know of it.

    A protocol, because this module imports no other one of the project, so that all others can
    import it.
    """

    @property
    def reasoning(self) -> str:
        """The chain of thought so far."""

    @property
    def answer(self) -> str:
        """The answer so far."""

    @property
    def trace(self) -> Any:
        """The ``Trace`` of what was written."""

    @property
    def usage(self) -> Any:
        """The ``Usage`` of all requests so far."""


class GlimpError(Exception):
    """Base of every error this project raises on purpose.

    Attributes:
        partial: Everything written before the failure (a ``RoutedAnswer``: reasoning, answer so
            far, trace, usage), or ``None`` when no answer had been begun.
    """

    partial: PartialAnswer | None = None


class ConfigError(GlimpError):
    """The request cannot be served as written: fix the named value.

    Not a ``ValueError``: pydantic would swallow those inside the adapters' constructors and
    raise its own ``ValidationError`` instead.
    """


class ModelError(GlimpError):
    """A model cannot be used, or failed. The setting ``on_backend_error`` applies to these.

    Attributes:
        model: The model's name.
        url: Address of the model's server, without credentials; ``None`` in-process.
        role: ``"small"`` or ``"large"``; ``None`` until the router knows.
        step: Number of the step that was being written, from 1; ``None`` before the first.
    """

    def __init__(self, message: str, *, model: str = "", url: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.model = model
        self.url = url
        self.role: str | None = None
        self.step: int | None = None

    def __str__(self) -> str:
        text = f"{self.role} model: {self.message}" if self.role else self.message
        if self.step is not None:
            text += f" [step {self.step}]"
        if self.partial is not None and (self.partial.reasoning or self.partial.answer):
            text += " (the text written so far is in this error's .partial)"
        return text


class UnsuitableEndpointError(ModelError):
    """A server lacks something the method needs, or a route that it had before.

    Args:
        probe: The check that failed, such as ``"P2 logprobs"``.
        server: The model and address, without secrets.
        detail: What the server did or answered.
        remedy: What the user can do about it.
        model: The model's name.
        url: Address of the model's server, without credentials.
    """

    def __init__(
        self,
        *,
        probe: str,
        server: str,
        detail: str,
        remedy: str,
        model: str = "",
        url: str | None = None,
    ) -> None:
        super().__init__(f"{server}: {detail}. {remedy} [{probe}]", model=model, url=url)
        self.probe = probe
        self.server = server
        self.detail = detail
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: the default reduction would call __init__ with the message.
        arguments = self.probe, self.server, self.detail, self.remedy
        return (_rebuild, arguments, dict(self.__dict__))


def _rebuild(probe: str, server: str, detail: str, remedy: str) -> UnsuitableEndpointError:
    return UnsuitableEndpointError(probe=probe, server=server, detail=detail, remedy=remedy)


class BackendError(ModelError):
    """A request to a model failed.

    Besides the attributes of :class:`ModelError`:

    Attributes:
        retryable: Whether another request, from the text kept so far, may succeed.
        context_full: Whether the model's context window was the reason.
        status: HTTP status of the server's refusal, or ``None``.
        retry_after: Seconds that the server asks clients to wait (``Retry-After``); ``None``: it
            did not say. The request is repeated after that time, unless it is longer than
            ``retries.LONGEST_WAIT`` or the request's timeout.
        timed_out: Whether the model did not answer within ``timeout``.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str = "",
        url: str | None = None,
        retryable: bool = False,
        context_full: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message, model=model, url=url)
        self.retryable = retryable
        self.context_full = context_full
        self.status = status
        self.retry_after = retry_after
        self.timed_out = timed_out
