"""How each kind of route is used: requests out, streams in.

What differs between servers that offer the same kind of route is data (``servers``).
"""

from __future__ import annotations

from glimp_integrations.backends.http.protocols.base import (
    ChunkParser,
    Identity,
    Protocol,
    RequestContext,
)
from glimp_integrations.backends.http.protocols.chat import Chat
from glimp_integrations.backends.http.protocols.completions import Completions
from glimp_integrations.backends.http.protocols.llamacpp import LlamaCpp
from glimp_integrations.backends.http.protocols.ollama import Ollama
from glimp_integrations.backends.http.protocols.tgi import Tgi

__all__ = ["PROTOCOLS", "ChunkParser", "Identity", "Protocol", "RequestContext"]

PROTOCOLS: dict[str, Protocol] = {
    "completions": Completions(),
    "llama.cpp": LlamaCpp(),
    "ollama": Ollama(),
    "tgi": Tgi(),
    "chat": Chat(),
}
"""The protocols by the names that ``ServerProfile.protocol`` uses."""
