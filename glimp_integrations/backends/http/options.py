"""Checking the arguments of ``OpenAIBackend``: which server is meant, and what it needs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from glimp_integrations.backends.http.servers import SERVERS, ServerProfile, hosted_at
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import public_url

__all__ = ["check_options", "find_server", "provider_field"]


def find_server(server: str, base_url: str | None) -> tuple[ServerProfile | None, str]:
    """The kind of the server, as far as the arguments tell, and its address.

    Args:
        server: ``"auto"`` or a name in ``SERVERS``.
        base_url: The address, or ``None`` for the one of the named hosted service.

    Returns:
        The server's profile, ``None`` if the server has to be asked; and its base URL.

    Raises:
        ConfigError: The name is unknown, or there is no address.
    """
    if server != "auto" and server not in SERVERS:
        raise ConfigError(f"unknown server {server!r}; known: auto, {', '.join(sorted(SERVERS))}")
    profile = SERVERS.get(server) or (hosted_at(base_url) if base_url else None)
    if base_url is None:
        base_url = profile.url if profile is not None else None
    if base_url is None:
        raise ConfigError(
            "base_url is missing: give the server's address, such as http://gpu1:8000/v1"
        )
    return profile, base_url


def check_options(
    profile: ServerProfile | None,
    *,
    model: str | None,
    base_url: str,
    top_logprobs: int | None,
    provider: str | None,
    names_provider: bool,
    has_template: bool,
) -> None:
    """Refuse combinations of arguments that cannot work.

    Args:
        profile: The server's kind; ``None`` if the server has to be asked.
        model: The model's name, if given.
        base_url: The server's address.
        top_logprobs: How many log-probabilities to ask for, if given.
        provider: The provider that serves every request, if given.
        names_provider: Whether requests name a provider, by ``provider`` or in ``extra_body``.
        has_template: Whether a tokenizer or a chat template was given.

    Raises:
        ConfigError: The combination cannot work.
    """
    if top_logprobs is not None and not 0 <= top_logprobs <= 1000:
        raise ConfigError(f"top_logprobs is {top_logprobs}; expected 0 to 1000")
    if provider is not None and (profile is None or not profile.requires_provider):
        raise ConfigError(
            f"provider is {provider!r}, but only server='openrouter' passes requests on"
        )
    if profile is None:
        return
    if profile.requires_provider and not names_provider:
        raise ConfigError(
            f"{profile.name} may send every step to another host, with other weights: name one "
            f"with provider='...' or as '{profile.name}:{model or 'MODEL'}@PROVIDER'"
        )
    if profile.hosts and model is None:
        raise ConfigError(f"{profile.name} serves many models: name one with model=...")
    if top_logprobs and not profile.max_logprobs:
        raise ConfigError(
            f"top_logprobs is {top_logprobs}, but {profile.name} continues a chat and shows no "
            "log-probabilities with that: leave it out, and use it as the large model"
        )
    # At any other address DeepSeek ignores "prefix", and starts a new answer at every step.
    if profile.name == "deepseek" and _host(base_url) in profile.hosts:
        beta_url = profile.url or ""
        if base_url.rstrip("/") != beta_url:
            raise ConfigError(
                f"base_url is {public_url(base_url)!r}, where deepseek continues no messages: "
                f"use {beta_url}"
            )
    if profile.protocol == "chat" and has_template:
        raise ConfigError(
            f"{profile.name} renders conversations itself: leave tokenizer and chat_template out"
        )


def provider_field(provider: str | None) -> dict[str, Any]:
    """The request field that names the provider; empty without one."""
    if provider is None:
        return {}
    return {"provider": {"order": [provider], "allow_fallbacks": False}}


def _host(url: str) -> str | None:
    """The host name in a URL; ``None`` if it is not a URL."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
