"""Which two models: backend objects, model strings, or nothing for the bundled models."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from glimp_integrations.backends.base import Backend
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_model_string

__all__ = ["Pair", "embedded", "parse", "resolve"]

_FORMS = (
    "'openai:MODEL@http://HOST:PORT/v1', 'llamacpp:/PATH/TO/MODEL.gguf', "
    "'hf:ORG/MODEL' (also a folder, or a GGUF file), or a server's kind: 'ollama:MODEL', "
    "'tgi:MODEL@http://HOST:PORT', 'together:MODEL', 'fireworks:MODEL', 'deepseek:MODEL', "
    "'mistral:MODEL' or 'openrouter:MODEL@PROVIDER', each with '@URL' for another address"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two backends, and those of them nobody else will close."""

    small: Backend
    large: Backend
    owned: list[Backend] = field(default_factory=list)


def resolve(small: Any = None, large: Any = None, api_key: SecretStr | None = None) -> Pair:
    """Turn the two models of the settings into backends. Loads nothing yet.

    Args:
        small: A backend, a model string, or ``None``.
        large: Likewise; with neither, the bundled models.
        api_key: For servers that a model string names.

    Raises:
        ConfigError: Only one model is named, or a model string is not understood.
    """
    if small is None and large is None:
        return Pair(*embedded())
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
        f"{role} is a {type(value).__name__}; expected a backend or a model string: {_FORMS}"
    )


_by_form: dict[tuple[str, str | None], Backend] = {}


def _shared(form: str, role: str, api_key: SecretStr | None) -> Backend:
    """One backend per model string and key: frameworks copy their models freely, even per call.

    A closed backend opens again on its next use, so sharing needs no counting.
    """
    known = _key_for(form.partition(":")[0], api_key)
    key = (form, known.get_secret_value() if known else None)
    if key not in _by_form:
        _by_form[key] = parse(form, role=role, api_key=api_key)
    return _by_form[key]


def _key_for(kind: str, api_key: SecretStr | None) -> SecretStr | None:
    """The key of a model string: given, of the service's own variable, or of this project.

    A service's own first: the project's key, meant for a server at home, is no business of a
    stranger who has one. Settings take the project's as their default, which is not "given".
    """
    from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS

    if api_key is not None and api_key.get_secret_value() != os.environ.get("GLIMP_API_KEY"):
        return api_key
    server = MODEL_STRING_SERVERS.get(kind)
    names = [*([server.key] if server is not None and server.key else []), "GLIMP_API_KEY"]
    found = next((os.environ[name] for name in names if os.environ.get(name)), None)
    return None if found is None else SecretStr(found)


def parse(text: str, *, role: str = "model", api_key: SecretStr | None = None) -> Backend:
    """A backend from its model string.

    Forms of servers take their key from ``api_key``, else (hosted services) from the service's own
    variable, such as ``TOGETHER_API_KEY``, else from ``GLIMP_API_KEY``.

    Raises:
        ConfigError: The form is not understood, or the kind of server needs more.
    """
    kind, _, rest = text.partition(":")
    backend = _server(kind, rest, _key_for(kind, api_key))
    if backend is not None:
        return backend
    if kind == "llamacpp" and rest:
        from glimp_integrations.backends.llamacpp import LlamaCppBackend

        return LlamaCppBackend(Path(rest).expanduser())
    if kind == "hf" and rest:
        from glimp_integrations.backends.hf.backend import HuggingFaceBackend

        return HuggingFaceBackend(rest)
    raise ConfigError(
        f"{role} is {public_model_string(text)!r}, which names no model; write {_FORMS}"
    )


def _server(kind: str, rest: str, key: SecretStr | None) -> Backend | None:
    """``MODEL@URL``, or for a known service ``MODEL``; ``None``: it is something else."""
    from glimp_integrations.backends.http.openai import OpenAIBackend
    from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS

    # The "@" before the scheme: model names and URLs may both hold one.
    found = re.fullmatch(r"(.*?)@(https?://.+)", rest)
    model, url = found.groups() if found else (rest, None)
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
def embedded() -> tuple[Backend, Backend]:
    """The bundled models, one per process: however many routers there are, it is loaded once."""
    from glimp_integrations.backends.llamacpp import LlamaCppBackend
    from glimp_integrations.weights import catalog

    class Embedded(LlamaCppBackend):
        """Weights that are fetched on first use."""

        def __init__(self, file: catalog.WeightFile) -> None:
            super().__init__(file.filename, name=f"{file.model}-Q4_K_M")
            self._file = file

        async def _locate(self) -> Path:
            from glimp_integrations.weights import ensure

            return await asyncio.to_thread(ensure, self._file)

    return Embedded(catalog.SMALL), Embedded(catalog.LARGE)
