"""Which kind of server this is: by what it lists, else by routes only one kind has."""

from __future__ import annotations

from typing import Any

from glimp_integrations.backends.http.protocols.base import ModelEndpoint
from glimp_integrations.backends.http.servers import FLAVOURS, GENERIC, OLLAMA, TGI, Flavour
from glimp_integrations.errors import BackendError, UnsuitableEndpointError

__all__ = ["recognise"]


async def recognise(endpoint: ModelEndpoint, listed: list[dict[str, Any]]) -> Flavour:
    """The flavour of a server nobody named; generic if nothing tells."""
    own = [item for item in listed if endpoint.model in (item.get("id"), None)] or listed
    owner = own[0].get("owned_by") if own else None
    for flavour in FLAVOURS.values():
        if flavour.owned_by and flavour.owned_by == owner:
            return flavour
    if "version" in await _told(endpoint, "/api/version"):
        return OLLAMA
    info = await _told(endpoint, "/info")
    return TGI if {"model_id", "max_total_tokens"} <= info.keys() else GENERIC


async def _told(endpoint: ModelEndpoint, route: str) -> dict[str, Any]:
    try:
        answer = await endpoint.get(route, at_most=5.0, max_retries=0)
    except (BackendError, UnsuitableEndpointError):
        return {}
    return answer if isinstance(answer, dict) else {}
