"""How the kinds of routes are spoken: requests out, streams in. What differs from server to
server of one kind is data (``servers``).
"""

from __future__ import annotations

from glimp_integrations.backends.http.protocols.base import Ask, Identity, Protocol, Reading
from glimp_integrations.backends.http.protocols.chat import Chat
from glimp_integrations.backends.http.protocols.completions import Completions
from glimp_integrations.backends.http.protocols.llamacpp import LlamaCpp
from glimp_integrations.backends.http.protocols.ollama import Ollama
from glimp_integrations.backends.http.protocols.tgi import Tgi

__all__ = ["PROTOCOLS", "Ask", "Identity", "Protocol", "Reading"]

PROTOCOLS: dict[str, Protocol] = {
    "completions": Completions(),
    "llama.cpp": LlamaCpp(),
    "ollama": Ollama(),
    "tgi": Tgi(),
    "chat": Chat(),
}
