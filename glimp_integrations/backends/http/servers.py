"""What servers do differently, as data. How each kind of route is used is ``protocols``' part.

Sources: llama.cpp ``tools/server/README.md`` (routes ``/completion``, ``/apply-template``,
``/tokenize``, ``/slots``); vLLM "OpenAI-Compatible Server" (extra parameters of the Completions
API, Tokenizer API, structured outputs); SGLang ``entrypoints/openai/protocol.py``
(``CompletionRequest``); Ollama ``docs/openapi.yaml`` and ``api/types.go`` (``GenerateRequest``);
TGI ``docs/openapi.json`` and ``router/src/validation.rs``; the request and response types of the
SDKs together 3.1, fireworks-ai 1.2, mistralai 3.7 and openrouter 1.3; DeepSeek API docs "Create
Chat Completion", "Chat Prefix Completion", "Thinking Mode"; OpenRouter docs "Streaming" (which
providers stop when a stream is cancelled); LM Studio docs "OpenAI Compatibility, Chat Completions"
(supported payload parameters); LiteLLM docs "Provider-specific Params".

Where penalties act: vLLM ``v1/sample/sampler.py`` (raw log-probabilities are taken first); SGLang
0.5.23 ``ModelRunner._preprocess_logits``, which changes the logits that log-probabilities are made
of; TGI ``utils/tokens.py`` (``HeterogeneousNextTokenChooser``), likewise; llama.cpp observed with
the server of xllamacpp 2026.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from glimp_integrations.backends.base import Request, StreamEnd
from glimp_integrations.method.sampling import FURTHER_SAMPLING
from glimp_integrations.output.json_schema import for_llguidance
from glimp_integrations.output.tool_formats import TAG_CLOSERS, TAGS

__all__ = [
    "GENERIC",
    "MODEL_STRING_SERVERS",
    "SERVERS",
    "ServerProfile",
    "hosted_at",
    "sampling_fields",
    "schema_fields",
]

_PLAIN_ENDS: Mapping[str, StreamEnd] = {"stop": "eos", "length": "length"}
# These values leave the model's distribution as it is. They are sent because servers fill in
# defaults of their own for whatever a request leaves out.
_NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0, **_NO_PENALTIES}
# llama.cpp and Ollama, which is built on it, name one field differently.
_NEUTRAL_LLAMA_CPP = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, **_NO_PENALTIES}
_SAMPLING = {name: name for name in FURTHER_SAMPLING}
_SAMPLING_LLAMA_CPP = {**_SAMPLING, "repetition_penalty": "repeat_penalty"}
# They choose among tokens at random, of which greedy decoding has only one.
_RANDOM_ONLY = ("top_k", "min_p")


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """One kind of server, and what it does differently from others.

    Attributes:
        name: Its name in settings and reports.
        protocol: Which kind of route it offers: a key of ``protocols.PROTOCOLS``.
        owned_by: What it writes into ``owned_by`` of ``/v1/models``; empty if that does not
            identify it.
        body: Fields that are sent with every completion.
        stream_options: Sent with every stream; if empty, the field is left out.
        distribution_body: Fields that are added when only the distribution of the next token
            matters.
        seed_field: The field for the sampling seed; ``None`` if there is none.
        renders: The route that renders a conversation (text completions only); ``None`` if the
            server renders none.
        window_field: The field of an entry in ``/v1/models`` that holds the context window.
        token_per_chunk: Whether a chunk without log-probabilities is exactly one token.
        schema_field: The field that constrains a completion to a JSON schema; ``None`` if there
            is none.
        max_logprobs: How many log-probabilities a token can carry according to the
            documentation. The default k is this or 20, whichever is smaller. With 0 the server
            can only run the large model.
        logprobs_mode: Which distribution log-probabilities describe. ``"raw"``: the model's own.
            ``"temperature"``: the one after the temperature was applied, unless the server was
            started otherwise; they are scaled back. ``"processed"``: the one after temperature,
            top-k and top-p. That cannot be undone, so log-probabilities come from a greedy
            request of their own, whose token is not used.
        sampling: Which further sampling settings it has (a name in ``FURTHER_SAMPLING``),
            and its own name for each.
        raw_under_penalties: Whether log-probabilities stay those of the model where penalties
            change what is drawn. If not, or if it is not known, they come from a request without
            penalties, whose token is not used.
        ends: How each ``finish_reason`` says that the sequence ended. Any other one is a failure.
        supports_stop: Whether a stream can end itself after a stop string and still report its
            exact tokens (see ``stop_strings``).
        stop_field: The field of a choice that tells a stop string from an end of sequence;
            ``None`` if nothing does.
        cached_path: Where a chunk holds the number of cached prompt tokens, as a path of keys;
            empty if it does not.
        cancels: Whether closing the connection stops the generation (and the bill); ``None`` if
            that is not documented.
        url: Base URL of a hosted service.
        hosts: Host names that identify a hosted service.
        key: Environment variable that model strings take the API key from.
        continue_fields: Fields that mark the last message as one to be continued (chat only).
        reasoning_field: Where that message holds the reasoning (chat only); ``None`` if nowhere.
        reasons_by_default: Whether models reason unless they are told otherwise (chat only).
        thinking_body: Fields that switch reasoning on and off (chat only).
        echoes_prefix: Whether replies repeat the text that is to be continued (chat only).
        requires_provider: Whether every request has to name the provider that serves it (chat
            only).
    """

    name: str
    protocol: Literal["completions", "llama.cpp", "ollama", "tgi", "chat"] = "completions"
    owned_by: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    distribution_body: Mapping[str, Any] = field(default_factory=dict)
    seed_field: str | None = "seed"
    renders: Literal["apply-template", "tokenize"] | None = None
    window_field: str = "max_model_len"
    token_per_chunk: bool = False
    schema_field: Literal["json_schema", "json_schema_text", "structured_outputs"] | None = None
    max_logprobs: int = 1000
    logprobs_mode: Literal["raw", "temperature", "processed"] = "raw"
    sampling: Mapping[str, str] = field(default_factory=dict)
    raw_under_penalties: bool = False
    ends: Mapping[str, StreamEnd] = field(default_factory=lambda: _PLAIN_ENDS)
    supports_stop: bool = False
    stop_field: str | None = None
    cached_path: tuple[str, ...] = ("usage", "prompt_tokens_details", "cached_tokens")
    cancels: bool | None = None
    url: str | None = None
    hosts: tuple[str, ...] = ()
    key: str | None = None
    continue_fields: Mapping[str, Any] = field(default_factory=dict)
    reasoning_field: Literal["reasoning_content", "reasoning", "thinking_chunk"] | None = None
    reasons_by_default: bool = False
    thinking_body: Mapping[bool, Mapping[str, Any]] = field(default_factory=dict)
    echoes_prefix: bool = False
    requires_provider: bool = False


GENERIC = ServerProfile(name="generic", sampling={"presence_penalty": "presence_penalty"})

LLAMA_CPP = ServerProfile(
    name="llama.cpp",
    protocol="llama.cpp",
    owned_by="llamacpp",
    body={
        **_NEUTRAL_LLAMA_CPP,
        "cache_prompt": True,
        # Counts in every chunk: exact for cancelled streams and for characters of several tokens.
        "timings_per_token": True,
        # Control tokens come without text unless they are listed here. Tool calls begin with them.
        "preserved_tokens": [*TAGS, "[ARGS]", "[CALL_ID]", *TAG_CLOSERS, "<｜tool▁sep｜>"],
    },
    # A token that is half a character is kept back together with its log-probabilities. These are
    # taken before the bias, so forcing another token shows them unchanged.
    distribution_body={"logit_bias": [["a", 1000.0]]},
    renders="apply-template",
    token_per_chunk=True,
    schema_field="json_schema",
    sampling=_SAMPLING_LLAMA_CPP,
    raw_under_penalties=True,
    ends={**_PLAIN_ENDS, "stop_string": "stop_string"},
    supports_stop=True,
    cancels=True,
)

VLLM = ServerProfile(
    name="vllm",
    owned_by="vllm",
    body={
        "top_k": 0,
        **_NEUTRAL,
        # The rendered prompt holds its own BOS.
        "add_special_tokens": False,
        # Think end tags may be special tokens.
        "skip_special_tokens": False,
        "return_token_ids": True,
    },
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    # The likeliest tokens are keyed by their text, and halves of characters have none, so they
    # collapse into one entry. Keyed by their ids none is lost, but then nothing in a chunk shows
    # which text belongs to which token.
    distribution_body={"return_tokens_as_token_ids": True},
    renders="tokenize",
    schema_field="structured_outputs",
    sampling=_SAMPLING,
    raw_under_penalties=True,
    stop_field="stop_reason",
    cancels=True,
)

SGLANG = ServerProfile(
    name="sglang",
    owned_by="sglang",
    body={"top_k": -1, **_NEUTRAL, "skip_special_tokens": False},
    schema_field="json_schema_text",
    logprobs_mode="temperature",
    sampling=_SAMPLING,
    stop_field="matched_stop",
    cancels=True,
)

OLLAMA = ServerProfile(
    name="ollama",
    protocol="ollama",
    owned_by="library",
    # "options" of the request; they override those of the Modelfile.
    body=_NEUTRAL_LLAMA_CPP,
    max_logprobs=20,
    sampling=_SAMPLING_LLAMA_CPP,
    raw_under_penalties=True,  # they come from llama.cpp's server
    cached_path=(),
    cancels=True,
    url="http://127.0.0.1:11434",
)

TGI = ServerProfile(
    name="tgi",
    protocol="tgi",
    body={"repetition_penalty": 1.0, "frequency_penalty": 0.0, "return_full_text": False},
    token_per_chunk=True,
    max_logprobs=5,
    logprobs_mode="processed",
    sampling={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
    ends={"eos_token": "eos", "stop_sequence": "eos", "length": "length"},
    stop_field="finish_reason",
    cached_path=(),
)

TOGETHER = ServerProfile(
    name="together",
    body=_NEUTRAL,  # no top-k, because no neutral value of it is documented
    stream_options={},
    window_field="context_length",
    max_logprobs=20,
    sampling=_SAMPLING,
    ends={"stop": "eos", "eos": "eos", "length": "length"},
    stop_field="finish_reason",
    cached_path=("usage", "cached_tokens"),
    cancels=True,
    url="https://api.together.ai/v1",
    hosts=("api.together.ai", "api.together.xyz"),
    key="TOGETHER_API_KEY",
)

FIREWORKS = ServerProfile(
    name="fireworks",
    body={"top_k": 0, **_NEUTRAL, "return_token_ids": True},
    stream_options={},
    window_field="context_length",
    max_logprobs=5,
    sampling=_SAMPLING,
    cancels=True,
    url="https://api.fireworks.ai/inference/v1",
    hosts=("api.fireworks.ai",),
    key="FIREWORKS_API_KEY",
)

DEEPSEEK = ServerProfile(
    name="deepseek",
    protocol="chat",
    seed_field=None,
    max_logprobs=0,
    sampling={"presence_penalty": "presence_penalty"},
    cached_path=("usage", "prompt_cache_hit_tokens"),
    cancels=True,
    url="https://api.deepseek.com/beta",
    hosts=("api.deepseek.com",),
    key="DEEPSEEK_API_KEY",
    continue_fields={"prefix": True},
    reasoning_field="reasoning_content",
    reasons_by_default=True,
    thinking_body={
        True: {"thinking": {"type": "enabled"}},
        False: {"thinking": {"type": "disabled"}},
    },
)

MISTRAL = ServerProfile(
    name="mistral",
    protocol="chat",
    stream_options={},
    seed_field="random_seed",
    window_field="max_context_length",
    max_logprobs=0,
    sampling={name: name for name in FURTHER_SAMPLING if name != "min_p"},
    ends={"stop": "eos", "length": "length", "model_length": "context"},
    cancels=False,
    url="https://api.mistral.ai/v1",
    hosts=("api.mistral.ai",),
    key="MISTRAL_API_KEY",
    continue_fields={"prefix": True},
    reasoning_field="thinking_chunk",
    thinking_body={True: {"prompt_mode": "reasoning"}},
    echoes_prefix=True,
)

OPENROUTER = ServerProfile(
    name="openrouter",
    protocol="chat",
    stream_options={},
    window_field="context_length",
    max_logprobs=0,
    sampling=_SAMPLING,
    url="https://openrouter.ai/api/v1",
    hosts=("openrouter.ai",),
    key="OPENROUTER_API_KEY",
    reasoning_field="reasoning",
    thinking_body={False: {"reasoning": {"effort": "none"}}},
    requires_provider=True,
)

LM_STUDIO = ServerProfile(
    name="lmstudio",
    owned_by="organization_owner",
    sampling={name: own for name, own in _SAMPLING_LLAMA_CPP.items() if name != "min_p"},
)

# It passes on whatever it does not know, so what has an effect is up to the server behind it.
LITELLM = ServerProfile(name="litellm", sampling=_SAMPLING)

SERVERS = {
    server.name: server
    for server in (
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
        LM_STUDIO,
        LITELLM,
        GENERIC,
    )
}
"""All kinds of servers by name; the names are the values of ``OpenAIBackend(server=...)``."""

MODEL_STRING_SERVERS = {
    server.name: server
    for server in (OLLAMA, TGI, TOGETHER, FIREWORKS, DEEPSEEK, MISTRAL, OPENROUTER)
}
"""Servers that a model string can begin with, such as ``ollama:MODEL``."""


def hosted_at(url: str) -> ServerProfile | None:
    """The hosted service at a URL; ``None`` if the host name belongs to none of them."""
    try:
        host = urlsplit(url).hostname
    except ValueError:  # not a URL, which is reported later
        return None
    return next((server for server in SERVERS.values() if host in server.hosts), None)


def sampling_fields(server: ServerProfile, request: Request) -> dict[str, Any]:
    """The request's further sampling settings in the server's words; empty where none is set."""
    return {
        own: value
        for name, own in server.sampling.items()
        if (value := getattr(request, name)) is not None
        and (request.temperature > 0 or name not in _RANDOM_ONLY)
    }


def schema_fields(server: ServerProfile, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Request fields that constrain a completion to a JSON schema; empty without a schema."""
    if schema is None or server.schema_field is None:
        return {}
    if server.schema_field == "structured_outputs":
        return {"structured_outputs": {"json": dict(schema)}}
    if server.schema_field == "json_schema_text":
        return {"json_schema": json.dumps(schema)}
    # Builds with llguidance follow the layout options in here; the built-in grammar ignores them.
    return {"json_schema": for_llguidance(schema)}
