"""Dictionaries, JSON and pickles of the LLM: all its settings, none of its secrets."""

from __future__ import annotations

import os
from typing import Any, Self

from llama_index.core.schema import BaseComponent

from glimp_integrations.adapter import RoutedModel
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string
from glimp_integrations.settings import PLACES

__all__ = ["Stored"]


class Stored(RoutedModel, BaseComponent):
    """The routing settings as a component of LlamaIndex that can be stored."""

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` reads, without secrets.

        Raises:
            ConfigError: A model is a backend object, which no text can name.
        """
        self._named_models()
        return super().to_dict(**{"mode": "json", **kwargs})

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """The LLM that :meth:`to_dict` wrote; keys and passwords come from the environment.

        Raises:
            ConfigError: A setting has an unknown name or an impossible value.
        """
        return super().from_dict(_with_passwords({**data, **kwargs}))

    def __getstate__(self) -> dict[str, Any]:
        # Copies of this state are stored and sent: the key stays here, and a reader takes its own
        # from the environment.
        kept = self.model_copy(update=self._named_models())
        del kept.__dict__["api_key"]
        kept._router, kept._models = None, (None, None, None)
        return super(Stored, kept).__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**_with_passwords(state["__dict__"]))  # type: ignore[misc]

    def _named_models(self) -> dict[str, str | None]:
        models = {role: getattr(self, role) for role in PLACES}
        for role, model in models.items():
            if not isinstance(model, str | None):
                raise ConfigError(
                    f"{role} is the object {model!r}, which cannot be stored or sent to another "
                    "process: name the model by a model string, such as "
                    "'openai:MODEL@http://HOST:PORT/v1'"
                )
        return {role: form and public_model_string(form) for role, form in models.items()}


def _with_passwords(fields: dict[str, Any]) -> dict[str, Any]:
    """Stored fields; the environment may name the same model with the password left out there."""
    found = dict(fields)
    for role, place in PLACES.items():
        here = os.environ.get(place)
        if here and public_model_string(here) == found.get(role):
            found[role] = here
    return found
