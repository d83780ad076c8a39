"""What servers do differently, as data. How a kind of route is spoken is ``protocols``.

Sources: llama.cpp ``tools/server/README.md`` (routes ``/completion``, ``/apply-template``,
``/tokenize``, ``/slots``); vLLM "OpenAI-Compatible Server" (extra parameters of the Completions
API, Tokenizer API, structured outputs); SGLang ``entrypoints/openai/protocol.py``
(``CompletionRequest``); Ollama ``docs/openapi.yaml`` and ``api/types.go`` (``GenerateRequest``);
TGI ``docs/openapi.json`` and ``router/src/validation.rs``; the request and response types of the
SDKs together 3.1, fireworks-ai 1.2, mistralai 3.7 and openrouter 1.3; DeepSeek API docs "Create
Chat Completion", "Chat Prefix Completion", "Thinking Mode"; OpenRouter docs "Streaming" (who stops
when a stream is cancelled).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from glimp_integrations.backends.base import StreamEnd
from glimp_integrations.output.json_schema import for_llguidance
from glimp_integrations.output.tool_formats import TAG_CLOSERS, TAGS

__all__ = ["FLAVOURS", "FORMS", "GENERIC", "Flavour", "bound_body", "by_host"]

_PLAIN_ENDS: Mapping[str, StreamEnd] = {"stop": "eos", "length": "length"}


@dataclass(frozen=True, slots=True)
class Flavour:
    """One kind of server.

    Attributes:
        name: How it is called in settings and reports.
        protocol: Which kind of route is spoken: a key of ``protocols.PROTOCOLS``.
        owned_by: What it writes into ``owned_by`` of ``/v1/models``; empty: nothing to go by.
        body: Fields sent with every completion: servers fill in defaults of their own
            (top-k, min-p, repetition penalty) for whatever is left out.
        stream_options: Sent with every stream; empty: the field is not sent.
        distribution_body: Sent when only the distribution of the next token matters.
        seed: The field for the sampling seed; ``None``: there is none.
        renders: Which route renders a conversation (text completions only); ``None``: none does.
        window: Where an entry of ``/v1/models`` says how long a context may be.
        token_per_chunk: A piece of a stream without log-probabilities is exactly one token.
        binding: The field by which a completion is bound to a JSON schema; ``None``: it has
            none.
        max_logprobs: How many log-probabilities a token can carry by the documentation; the
            default k is this or 20, whichever is smaller. 0: none, a large model only.
        tempered: Log-probabilities are of the distribution the temperature made, unless the server
            was started otherwise; they are scaled back.
        warped: Log-probabilities are taken behind temperature, top-k and top-p, so the
            distribution is asked for greedily, in a request of its own.
        ends: From ``finish_reason`` to how a sequence ended; any other one is a failure.
        stops: A stream can end itself behind a text and tell its exact tokens
            (``stop_strings``).
        stop_told: The field that tells a stop string from an end of sequence; ``None``: nothing
            does.
        cached: Path to the number of cached prompt tokens, from the chunk down.
        cancels: Whether closing the connection stops the generation (and the bill); ``None``:
            not documented.
        url: Base URL of a hosted service.
        hosts: Host names it is recognised by.
        key: Environment variable that model strings take the API key from.
        partial: Fields that mark the last message as one to be continued (chat only).
        thought: Where that message holds the thought (chat only); ``None``: nowhere.
        thinks: Whether models think unless told otherwise (chat only).
        thinking_body: Fields that switch thinking on and off (chat only).
        echoes: Replies repeat the text that is to be continued (chat only).
        pins: Every request has to name the host that serves it (chat only).
    """

    name: str
    protocol: Literal["completions", "llama.cpp", "ollama", "tgi", "chat"] = "completions"
    owned_by: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    distribution_body: Mapping[str, Any] = field(default_factory=dict)
    seed: str | None = "seed"
    renders: Literal["apply-template", "tokenize"] | None = None
    window: str = "max_model_len"
    token_per_chunk: bool = False
    binding: Literal["json_schema", "json_schema_text", "structured_outputs"] | None = None
    max_logprobs: int = 1000
    tempered: bool = False
    warped: bool = False
    ends: Mapping[str, StreamEnd] = field(default_factory=lambda: _PLAIN_ENDS)
    stops: bool = False
    stop_told: str | None = None
    cached: tuple[str, ...] = ("usage", "prompt_tokens_details", "cached_tokens")
    cancels: bool | None = None
    url: str | None = None
    hosts: tuple[str, ...] = ()
    key: str | None = None
    partial: Mapping[str, Any] = field(default_factory=dict)
    thought: Literal["reasoning_content", "reasoning", "thinking_chunk"] | None = None
    thinks: bool = False
    thinking_body: Mapping[bool, Mapping[str, Any]] = field(default_factory=dict)
    echoes: bool = False
    pins: bool = False


GENERIC = Flavour(name="generic")

LLAMA_CPP = Flavour(
    name="llama.cpp",
    protocol="llama.cpp",
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
    ends={**_PLAIN_ENDS, "stop_string": "stop_string"},
    stops=True,
    cancels=True,
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
    stop_told="stop_reason",
    cancels=True,
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
    tempered=True,
    stop_told="matched_stop",
    cancels=True,
)

OLLAMA = Flavour(
    name="ollama",
    protocol="ollama",
    owned_by="library",
    # "options" of the request: neutral values against those of the Modelfile.
    body={
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    },
    max_logprobs=20,
    cached=(),
    cancels=True,
    url="http://127.0.0.1:11434",
)

TGI = Flavour(
    name="tgi",
    protocol="tgi",
    body={"repetition_penalty": 1.0, "frequency_penalty": 0.0, "return_full_text": False},
    token_per_chunk=True,
    max_logprobs=5,
    warped=True,
    ends={"eos_token": "eos", "stop_sequence": "eos", "length": "length"},
    stop_told="finish_reason",
    cached=(),
)

TOGETHER = Flavour(
    name="together",
    # A neutral top-k is not documented, so none is sent.
    body={
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    },
    stream_options={},
    window="context_length",
    max_logprobs=20,
    ends={"stop": "eos", "eos": "eos", "length": "length"},
    stop_told="finish_reason",
    cached=("usage", "cached_tokens"),
    cancels=True,
    url="https://api.together.ai/v1",
    hosts=("api.together.ai", "api.together.xyz"),
    key="TOGETHER_API_KEY",
)

FIREWORKS = Flavour(
    name="fireworks",
    body={
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "return_token_ids": True,
    },
    stream_options={},
    window="context_length",
    max_logprobs=5,
    cancels=True,
    url="https://api.fireworks.ai/inference/v1",
    hosts=("api.fireworks.ai",),
    key="FIREWORKS_API_KEY",
)

DEEPSEEK = Flavour(
    name="deepseek",
    protocol="chat",
    seed=None,
    max_logprobs=0,
    cached=("usage", "prompt_cache_hit_tokens"),
    cancels=True,
    url="https://api.deepseek.com/beta",
    hosts=("api.deepseek.com",),
    key="DEEPSEEK_API_KEY",
    partial={"prefix": True},
    thought="reasoning_content",
    thinks=True,
    thinking_body={
        True: {"thinking": {"type": "enabled"}},
        False: {"thinking": {"type": "disabled"}},
    },
)

MISTRAL = Flavour(
    name="mistral",
    protocol="chat",
    stream_options={},
    seed="random_seed",
    window="max_context_length",
    max_logprobs=0,
    ends={"stop": "eos", "length": "length", "model_length": "context"},
    cancels=False,
    url="https://api.mistral.ai/v1",
    hosts=("api.mistral.ai",),
    key="MISTRAL_API_KEY",
    partial={"prefix": True},
    thought="thinking_chunk",
    thinking_body={True: {"prompt_mode": "reasoning"}},
    echoes=True,
)

OPENROUTER = Flavour(
    name="openrouter",
    protocol="chat",
    stream_options={},
    window="context_length",
    max_logprobs=0,
    url="https://openrouter.ai/api/v1",
    hosts=("openrouter.ai",),
    key="OPENROUTER_API_KEY",
    thought="reasoning",
    thinking_body={False: {"reasoning": {"effort": "none"}}},
    pins=True,
)

FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        LLAMA_CPP,
        VLLM,
        SGLANG,
        OLLAMA,
        TGI,
        TOGETHER,
        FIREWORKS,
        DEEPSEEK,
        MISTRAL,
        OPENROUTER,
        GENERIC,
    )
}

FORMS = {f.name: f for f in (OLLAMA, TGI, TOGETHER, FIREWORKS, DEEPSEEK, MISTRAL, OPENROUTER)}
"""Flavours with a model string of their own, such as ``ollama:MODEL``."""


def by_host(url: str) -> Flavour | None:
    """The hosted service at a URL."""
    try:
        host = urlsplit(url).hostname
    except ValueError:  # no URL: told later
        return None
    return next((flavour for flavour in FLAVOURS.values() if host in flavour.hosts), None)


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
