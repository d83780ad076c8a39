"""Dictionaries, JSON and pickles of the LLM, with all its settings and none of its secrets."""

from __future__ import annotations

from typing import Any, Self

from llama_index.core.schema import BaseComponent

from glimp_integrations.adapter import RoutedModel
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string
from glimp_integrations.settings import PLACES, with_passwords

__all__ = ["Serializable"]

_DECIDING = frozenset({"threshold", "large_share", "policy"})
"""Settings of which one is given; another one replaces it."""
_MODELS = frozenset({"pair", *PLACES})
"""Likewise: both models by one name, or each by its own."""


class Serializable(RoutedModel, BaseComponent):
    """The routing settings as a LlamaIndex component that can be stored and loaded."""

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The settings as plain data without secrets, for :meth:`from_dict`.

        Args:
            **kwargs: Arguments of pydantic's ``model_dump``.

        Raises:
            ConfigError: A model is a backend object, or the policy is an object, which cannot be
                stored as text.
        """
        self._public_model_strings()
        if self.policy is not None:
            raise ConfigError(
                f"policy is the object {self.policy!r}, which cannot be stored as text: store the "
                "LLM without it, and give the policy to from_dict(data, policy=...)"
            )
        return self._without_idle_threshold(super().to_dict(**{"mode": "json", **kwargs}))

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """The LLM that :meth:`to_dict` stored. Keys and passwords come from the environment.

        Args:
            data: What :meth:`to_dict` returned.
            **kwargs: Settings that replace stored ones.

        Raises:
            ConfigError: A setting has an unknown name or an impossible value.
        """
        for alternatives in (_DECIDING, _MODELS):
            if alternatives & set(kwargs):
                data = {name: value for name, value in data.items() if name not in alternatives}
        return super().from_dict(with_passwords({**data, **kwargs}))

    def __getstate__(self) -> dict[str, Any]:
        self._public_model_strings()
        state = super().__getstate__()
        return {**state, "__dict__": self._without_idle_threshold(state["__dict__"])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**with_passwords(state["__dict__"]))  # type: ignore[misc]

    def _without_idle_threshold(self, fields: dict[str, Any]) -> dict[str, Any]:
        """These settings without a threshold that decides nothing: two deciders are a mistake."""
        if self.large_share is None and self.policy is None:
            return fields
        return {name: value for name, value in fields.items() if name != "threshold"}

    def _public_model_strings(self) -> dict[str, str | None]:
        """The models by role, as model strings without passwords.

        Raises:
            ConfigError: A model is a backend object.
        """
        models = {role: getattr(self, role) for role in PLACES}
        for role, model in models.items():
            if not isinstance(model, str | None):
                raise ConfigError(
                    f"{role} is the object {model!r}, which cannot be stored or sent to another "
                    "process: name the model by a model string, such as "
                    "'openai:MODEL@http://HOST:PORT/v1'"
                )
        return {role: model and public_model_string(model) for role, model in models.items()}
