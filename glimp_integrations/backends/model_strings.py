"""From the two models in the settings to backends.

Each model is a backend or a model string, or both are a pair of the catalogue. If nothing is given,
it is the bundled models.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from glimp_integrations.backends.base import Backend
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import has_user_info, public_model_string
from glimp_integrations.settings import named_twice

__all__ = ["Pair", "bundled_models", "catalogue_models", "parse", "resolve"]

_BUNDLED = "bundled"
"""The pair that is used where nothing is named."""

_EXAMPLES = (
    "'openai:MODEL@http://HOST:PORT/v1', 'llamacpp:/PATH/TO/MODEL.gguf', "
    "'hf:ORG/MODEL' (also a folder, or a GGUF file), or a server's kind: 'ollama:MODEL', "
    "'tgi:MODEL@http://HOST:PORT', 'together:MODEL', 'fireworks:MODEL', 'deepseek:MODEL', "
    "'mistral:MODEL' or 'openrouter:MODEL@PROVIDER', each with '@URL' for another address"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two backends.

    Attributes:
        small: The small model.
        large: The large model.
        owned: Those that were made here from model strings, so that whoever uses the pair has to
            close them.
    """

    small: Backend
    large: Backend
    owned: list[Backend] = field(default_factory=list)


def resolve(
    small: Any = None,
    large: Any = None,
    api_key: SecretStr | None = None,
    pair: str | None = None,
) -> Pair:
    """Turn the two models of the settings into backends. This loads nothing yet.

    Args:
        small: A backend, a model string, or ``None``.
        large: Likewise. If neither is given, it is the pair, or else the bundled models.
        api_key: API key for the servers that model strings name.
        pair: The name of a pair of the catalogue.

    Raises:
        ConfigError: Only one model is named, a pair besides a model, a model string is invalid, or
            there is no such pair.
    """
    named = [role for role, model in (("small", small), ("large", large)) if model is not None]
    if pair is not None and named:
        raise named_twice(pair, named)
    if not named:
        models = catalogue_models(pair or _BUNDLED)
        return Pair(*models, [] if pair in (None, _BUNDLED) else list(models))
    if small is None or large is None:
        missing = "small" if small is None else "large"
        raise ConfigError(
            f"only one model is named: give {missing}=... too, or neither for the bundled models"
        )
    backends = [
        _backend(role, value, api_key) for role, value in (("small", small), ("large", large))
    ]
    owned = [b for b, given in zip(backends, (small, large), strict=True) if b is not given]
    return Pair(backends[0], backends[1], owned)


def _backend(role: str, value: Any, api_key: SecretStr | None) -> Backend:
    if isinstance(value, Backend):
        return value
    if isinstance(value, str):
        return _shared(value, role, api_key)
    raise ConfigError(
        f"{role} is a {type(value).__name__}; expected a backend or a model string: {_EXAMPLES}"
    )


_backends: dict[tuple[str, str | None], Backend] = {}


def _shared(text: str, role: str, api_key: SecretStr | None) -> Backend:
    """The backend of a model string and key, which all routers share.

    Frameworks copy their models freely, even for every call, and the copies must not load the
    model again. A closed backend opens again on its next use, so the users need not be counted.
    """
    used_key = _key_for(text, api_key)
    key = (text, used_key.get_secret_value() if used_key else None)
    if key not in _backends:
        _backends[key] = parse(text, role=role, api_key=api_key)
    return _backends[key]


def _key_for(text: str, api_key: SecretStr | None) -> SecretStr | None:
    """The API key for a model string: the given one, the service's own, or this project's.

    The variable of the service comes before ``GLIMP_API_KEY``, because the project's key may be
    meant for a private server and must not be sent to a hosted service that has a key of its own.
    The settings use ``GLIMP_API_KEY`` as their default, so that value does not count as given.
    A model whose URL has a user name or password gets no key: the settings' key is for the other.
    """
    from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS

    kind, _, rest = text.partition(":")
    if has_user_info(_split(rest)[1] or ""):
        return None
    if api_key is not None and api_key.get_secret_value() != os.environ.get("GLIMP_API_KEY"):
        return api_key
    server = MODEL_STRING_SERVERS.get(kind)
    names = [*([server.key] if server is not None and server.key else []), "GLIMP_API_KEY"]
    key = next((os.environ[name] for name in names if os.environ.get(name)), None)
    return None if key is None else SecretStr(key)


def parse(text: str, *, role: str = "model", api_key: SecretStr | None = None) -> Backend:
    """Make a backend from a model string.

    Args:
        text: The model string, such as ``"ollama:qwen3:4b"``.
        role: What the model is for, for the message of an error.
        api_key: API key for a server. If it is not given, hosted services use their own variable,
            such as ``TOGETHER_API_KEY``, and otherwise it is ``GLIMP_API_KEY``.

    Raises:
        ConfigError: The model string is invalid, or this kind of server needs more arguments.
    """
    kind, _, rest = text.partition(":")
    backend = _server(kind, rest, _key_for(text, api_key))
    if backend is not None:
        return backend
    if kind == "llamacpp" and rest:
        from glimp_integrations.backends.llamacpp import LlamaCppBackend

        return LlamaCppBackend(Path(rest).expanduser())
    if kind == "hf" and rest:
        from glimp_integrations.backends.hf.backend import HuggingFaceBackend

        return HuggingFaceBackend(rest)
    raise ConfigError(
        f"{role} is {public_model_string(text)!r}, which is not a model string; write {_EXAMPLES}"
    )


def _split(rest: str) -> tuple[str, str | None]:
    """The model and the URL of ``MODEL@URL``; no URL if there is none."""
    # Split at the "@" before the scheme, because model names and URLs may both contain one.
    match = re.fullmatch(r"(.*?)@(https?://.+)", rest)
    return (match[1], match[2]) if match else (rest, None)


def _server(kind: str, rest: str, key: SecretStr | None) -> Backend | None:
    """The backend for ``MODEL@URL`` or a known service's ``MODEL``; ``None`` if it is neither."""
    from glimp_integrations.backends.http.openai import OpenAIBackend
    from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS

    model, url = _split(rest)
    if kind == "openai" and url is not None:
        return OpenAIBackend(model or None, base_url=url, api_key=key)
    server = MODEL_STRING_SERVERS.get(kind)
    if server is None or not rest or (url is None and server.url is None):
        return None
    provider = None
    if server.requires_provider:
        model, _, provider = model.rpartition("@") if "@" in model else (model, "", None)
    return OpenAIBackend(
        model or None, base_url=url, api_key=key, server=server.name, provider=provider or None
    )


@functools.cache
def catalogue_models(pair: str) -> tuple[Backend, Backend]:
    """The models of a pair. All routers of a process share them, so they are loaded only once.

    Raises:
        ConfigError: There is no such pair.
    """
    from glimp_integrations.backends.pair_models import models_of
    from glimp_integrations.weights.pairs import find_pair

    return models_of(find_pair(pair))


def bundled_models() -> tuple[Backend, Backend]:
    """The models of the bundled pair."""
    return catalogue_models(_BUNDLED)
