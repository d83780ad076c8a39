"""Which kind of server this is: by what it lists, else by routes only one kind has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimp_integrations.backends.http.servers import FLAVOURS, GENERIC, OLLAMA, TGI, Flavour
from glimp_integrations.errors import BackendError, UnsuitableEndpointError

if TYPE_CHECKING:
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = ["recognise"]


async def recognise(server: OpenAIBackend, listed: list[dict[str, Any]]) -> Flavour:
    """The flavour of a server nobody named; generic if nothing tells."""
    own = [item for item in listed if server.model in (item.get("id"), None)] or listed
    owner = own[0].get("owned_by") if own else None
    for flavour in FLAVOURS.values():
        if flavour.owned_by and flavour.owned_by == owner:
            return flavour
    if "version" in await _told(server, "/api/version"):
        return OLLAMA
    info = await _told(server, "/info")
    return TGI if {"model_id", "max_total_tokens"} <= info.keys() else GENERIC


async def _told(server: OpenAIBackend, route: str) -> dict[str, Any]:
    try:
        answer = await server.get(route, at_most=5.0, max_retries=0)
    except (BackendError, UnsuitableEndpointError):
        return {}
    return answer if isinstance(answer, dict) else {}
