"""Finding out what kind of server answers: from its model list, or by routes only one kind has."""

from __future__ import annotations

from typing import Any

from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.backends.http.replies import Anything, ListedModel
from glimp_integrations.backends.http.servers import (
    GENERIC,
    OLLAMA,
    SERVERS,
    TGI,
    ServerProfile,
)
from glimp_integrations.errors import BackendError, UnsuitableEndpointError

__all__ = ["detect_server"]


async def detect_server(endpoint: ModelEndpoint, listed: list[ListedModel]) -> ServerProfile:
    """The kind of a server whose kind was not given; generic if nothing identifies it.

    Args:
        endpoint: The model that is served there.
        listed: The entries of ``/v1/models``; empty if there are none.
    """
    entries = [item for item in listed if endpoint.model in (item.get("id"), None)] or listed
    owner = entries[0].get("owned_by") if entries else None
    for server in SERVERS.values():
        if server.owned_by and server.owned_by == owner:
            return server
    if "version" in await _get_object(endpoint, "/api/version"):
        return OLLAMA
    info = await _get_object(endpoint, "/info")
    return TGI if {"model_id", "max_total_tokens"} <= info.keys() else GENERIC


async def _get_object(endpoint: ModelEndpoint, route: str) -> dict[str, Any]:
    """The JSON object at a route; empty if there is none."""
    try:
        reply: object = await endpoint.get(route, Anything, at_most=5.0, max_retries=0)
    except (BackendError, UnsuitableEndpointError):
        return {}
    return reply if isinstance(reply, dict) else {}
