"""Failures of a model: who failed, in one kind of error, and who goes on.

Every coroutine of a backend is awaited inside :func:`asked`, so no other exception than a
``GlimpError`` comes from a model, and each names the role that failed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from glimp_integrations.backends.base import HEADERS, Backend
from glimp_integrations.errors import BackendError, GlimpError, ModelError
from glimp_integrations.method.policy import Author
from glimp_integrations.redact import proxy_secrets, public_model_string, redacted, secret_forms
from glimp_integrations.settings import RoutingSettings

__all__ = ["asked", "ignored", "stand_in"]

_log = logging.getLogger(__name__)


class asked:  # noqa: N801 - used as a function is: with asked(role, backend)
    """Errors that leave this block are a ``GlimpError``, and name the model and its role.

    Cancellation and other exceptions that are no ``Exception`` pass as they are.

    Args:
        role: The role of the model that is asked.
        backend: The model.

    Raises:
        BackendError: An exception of any other kind was raised: a fault in the backend's code, or
            in this package's.
    """

    # A class, because every token is waited for in such a block, and a generator takes as long as
    # reading the token's text.
    __slots__ = ("_backend", "_role")

    def __init__(self, role: Author, backend: Backend) -> None:
        self._role = role
        self._backend = backend

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, ModelError):
            error.role = self._role
            error.model = error.model or self._backend.name
            error.url = error.url or self._backend.url
        elif isinstance(error, Exception) and not isinstance(error, GlimpError):
            failure = _unexpected(error, self._backend)
            failure.role = self._role
            raise failure from error


@contextmanager
def ignored(backend: Backend, doing: str) -> Iterator[None]:
    """Exceptions that leave this block are only logged.

    For what is done after a text is complete, or beside it: it must not cost the text. A failure
    that lasts is met again by the next request.

    Args:
        backend: The model.
        doing: What was being done, in words.
    """
    try:
        yield
    except Exception as error:
        _log.warning("%s: %s failed: %s", backend.name, doing, _in_words(error))


def stand_in(settings: RoutingSettings, failed: str | None) -> Author | None:
    """Who goes on alone when a model fails; ``None``: nobody, the failure is raised.

    Args:
        settings: The call's settings.
        failed: The role that failed; ``None``: nobody knows, so either may be the one.
    """
    deputy = settings.on_backend_error
    return None if failed is None or deputy == "raise" or deputy == failed else deputy


def _unexpected(error: Exception, backend: Backend) -> BackendError:
    code = f"{type(backend).__module__}.{type(backend).__qualname__}"
    return BackendError(
        # Without the exception's text, which may quote a prompt, a key or anything else.
        f"{backend.label} raised an unexpected {type(error).__name__}: this exception's __cause__ "
        f"says what and where; mend {code} there, or report it to whoever maintains it",
        model=backend.name,
        url=backend.url,
    )


def _in_words(error: Exception) -> str:
    """The exception's text on one line, without secrets and control characters."""
    try:
        text = public_model_string(" ".join(str(error).split()))
    except Exception:  # somebody else's __str__
        text = ""
    headers = [value.get_secret_value() for value in (HEADERS.get() or {}).values()]
    secrets = (*secret_forms(None, "", headers), *proxy_secrets())
    return redacted(text or type(error).__name__, secrets)
