"""Whether both models answer."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Backend, Report, Request
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.errors import GlimpError, ModelError
from glimp_integrations.method.policy import Author
from glimp_integrations.router import GlimpRouter
from glimp_integrations.runtime.failures import asked
from glimp_integrations.serve.conversations import Conversations

__all__ = ["Readiness"]

_HELLO = check_messages("Hello")
_KEPT_SECONDS = 5.0
_WAIT_SECONDS = 5.0
_MODEL_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Readiness:
    """Asks both models for a token, at most every few seconds, however often it is asked itself.

    Args:
        router: Whose models.
        conversations: A token in one of these is as good an answer.
    """

    def __init__(self, router: GlimpRouter, conversations: Conversations) -> None:
        self._router, self._conversations = router, conversations
        self._task: asyncio.Task[str | None] | None = None
        self._since = -float("inf")

    async def problem(self) -> str | None:
        """Why the server is not ready, in words; ``None``: it is."""
        if self._conversations.places.closed:
            return "the server is shutting down"
        now = time.monotonic()
        if now - self._conversations.last_token < _KEPT_SECONDS:
            return None
        if self._task is None or (self._task.done() and now - self._since > _KEPT_SECONDS):
            self._task = asyncio.create_task(self._ask())
        try:
            # One that is slow, such as a model that is being loaded, is waited for the next time.
            return await asyncio.wait_for(asyncio.shield(self._task), _WAIT_SECONDS)
        except TimeoutError:
            return f"the models have not answered within {_WAIT_SECONDS:g} seconds"

    async def aclose(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> str | None:
        try:
            await io_loop.acall(self._answer)
        except GlimpError as error:
            # The address of a model is for the log only: this route needs no key.
            _log.warning("not ready: %s", error)
            role = error.role if isinstance(error, ModelError) else None
            return f"the {role or 'other'} model does not answer"
        finally:
            self._since = time.monotonic()
        return None

    async def _answer(self) -> None:
        await _answers("small", self._router.small)
        await _answers("large", self._router.large)


async def _answers(role: Author, backend: Backend) -> None:
    """Let a model write a token.

    Raises:
        BackendError: It cannot.
        UnsuitableEndpointError: Likewise.
    """
    with asked(role, backend):
        await backend.capabilities()
        rendered = await prompt.build(backend, _HELLO, must_fit=False)
        request = Request(rendered.prefix(rendered.tags), 1, timeout=_MODEL_SECONDS, max_retries=0)
        async with aclosing(backend.generate(request, Report())) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return
