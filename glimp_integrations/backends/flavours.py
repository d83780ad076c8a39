"""What OpenAI-compatible servers do differently, as data.

Sources: llama.cpp ``tools/server/README.md`` (routes ``/completion``, ``/apply-template``,
``/tokenize``, ``/slots``); vLLM "OpenAI-Compatible Server" (extra parameters of the Completions
API, Tokenizer API, structured outputs); SGLang ``entrypoints/openai/protocol.py``
(``CompletionRequest``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glimp_integrations.forms.dialects import TAG_CLOSERS, TAGS
from glimp_integrations.forms.schemas import for_llguidance

__all__ = ["FLAVOURS", "GENERIC", "LLAMA_CPP", "SGLANG", "VLLM", "Flavour", "bound_body"]


@dataclass(frozen=True, slots=True)
class Flavour:
    """One kind of server.

    Attributes:
        name: How it is called in settings and reports.
        owned_by: What it writes into ``owned_by`` of ``/v1/models``.
        body: Fields sent with every completion: servers fill in defaults of their own
            (top-k, min-p, repetition penalty) for whatever is left out.
        stream_options: Sent with every stream.
        distribution_body: Sent when only the distribution of the next token matters.
        renders: Which route renders a conversation; ``None``: none does.
        token_per_chunk: A piece of a stream without log-probabilities is exactly one token.
        binding: The field by which a completion is bound to a JSON schema; ``None``: it has
            none.
    """

    name: str
    owned_by: str
    body: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    distribution_body: Mapping[str, Any] = field(default_factory=dict)
    renders: Literal["apply-template", "tokenize"] | None = None
    token_per_chunk: bool = False
    binding: Literal["json_schema", "json_schema_text", "structured_outputs"] | None = None


GENERIC = Flavour(name="generic", owned_by="")

LLAMA_CPP = Flavour(
    name="llama.cpp",
    owned_by="llamacpp",
    body={
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "cache_prompt": True,
        # Counts in every chunk: exact for cancelled streams and characters of several tokens.
        "timings_per_token": True,
        # Control tokens are generated without text, except these: what calls are begun with.
        "preserved_tokens": [*TAGS, "[ARGS]", "[CALL_ID]", *TAG_CLOSERS, "<｜tool▁sep｜>"],
    },
    # A token that is half a character is kept back together with its log-probabilities. These are
    # taken before the bias, so forcing another token shows them unchanged.
    distribution_body={"logit_bias": [["a", 1000.0]]},
    renders="apply-template",
    token_per_chunk=True,
    binding="json_schema",
)

VLLM = Flavour(
    name="vllm",
    owned_by="vllm",
    body={
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # The rendered prompt holds its own BOS; closing tags may be special tokens.
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "return_token_ids": True,
    },
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    # The likeliest tokens are keyed by their text, and halves of characters have none: they fall
    # together. Keyed by their ids none is lost, but then nothing tells a chunk's tokens apart.
    distribution_body={"return_tokens_as_token_ids": True},
    renders="tokenize",
    binding="structured_outputs",
)

SGLANG = Flavour(
    name="sglang",
    owned_by="sglang",
    body={
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "skip_special_tokens": False,
    },
    binding="json_schema_text",
)

FLAVOURS = {flavour.name: flavour for flavour in (LLAMA_CPP, VLLM, SGLANG, GENERIC)}


def bound_body(flavour: Flavour, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fields that bind a completion to a JSON schema."""
    if schema is None or flavour.binding is None:
        return {}
    if flavour.binding == "structured_outputs":
        return {"structured_outputs": {"json": dict(schema)}}
    if flavour.binding == "json_schema_text":
        return {"json_schema": json.dumps(schema)}
    # Builds with llguidance write the JSON as told here; the built-in grammar ignores it.
    return {"json_schema": for_llguidance(schema)}
