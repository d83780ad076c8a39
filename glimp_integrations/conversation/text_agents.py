"""Replies that a program reads by marks in their text. Pure.

Agents of plain text (ReAct, CodeAct) tell the model how to write, and look for these words in what
it wrote. A reply split into reasoning and answer would keep half of them from the program.
"""

from __future__ import annotations

from collections.abc import Sequence

from glimp_integrations.backends.base import Message

__all__ = ["read_by_marks"]

# A prompt names all marks of a protocol, or does not follow it.
_PROTOCOLS = (
    ("Thought:", "Action:", "Action Input:"),  # ReAct, of LangChain and of LlamaIndex
    ("<execute>", "</execute>"),  # LlamaIndex's CodeActAgent
)
_INSTRUCTING = ("system", "developer", "user")


def read_by_marks(messages: Sequence[Message]) -> bool:
    """Whether a message tells the model to write in such a protocol.

    Args:
        messages: The conversation, checked.
    """
    texts = [m["content"] for m in messages if m["role"] in _INSTRUCTING]
    return any(all(mark in text for mark in marks) for text in texts for marks in _PROTOCOLS)
