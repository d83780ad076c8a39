"""Ollama's own ``POST /api/generate`` with ``raw``: its ``/v1/completions`` wraps the prompt.

Sources: Ollama ``docs/openapi.yaml`` and ``docs/api.md`` ("Generate a completion", "Request (Raw
Mode)", "Show Model Information", "List Running Models"), ``api/types.go`` (``GenerateRequest``:
``truncate``, ``shift``, ``logprobs``, ``_debug_render_only``; ``ProcessModelResponse``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import Message, Rendered, Report
from glimp_integrations.backends.http.chunks import note_counts
from glimp_integrations.backends.http.protocols.base import (
    ChunkParser,
    Identity,
    ModelEndpoint,
    Protocol,
    RequestContext,
    choice_of,
    not_served,
    only_model,
)
from glimp_integrations.backends.http.replies import (
    ListedModel,
    OllamaChunk,
    OllamaModels,
    OllamaPrompt,
    OllamaShow,
)
from glimp_integrations.backends.http.servers import sampling_fields
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.method.tokens import count_of

__all__ = ["Ollama"]

_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,12})\b", re.M)


class Ollama(Protocol):
    """Ollama's own API in raw mode."""

    route = "POST /api/generate"
    remedy = "server='ollama' needs Ollama's own API: is base_url an Ollama server?"
    json_lines = True

    def path(self, root: str, context: RequestContext) -> str:
        return f"{root}/api/generate"

    def body(self, context: RequestContext) -> dict[str, Any]:
        request = context.request
        options: dict[str, Any] = {
            **context.server.body,
            **sampling_fields(context.server, request),
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.seed is not None:
            options["seed"] = request.seed
        if context.stop:
            options["stop"] = list(context.stop)
        if context.window is not None:
            options["num_ctx"] = context.window
        body: dict[str, Any] = {
            "model": context.model,
            "prompt": request.prompt,
            "raw": True,
            # Otherwise Ollama looks for reasoning even in raw text, and takes it out.
            "think": False,
            # A prompt that is too long has to be an error. Ollama would cut it silently.
            "truncate": False,
            "shift": False,
            "stream": True,
        }
        if request.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        extra = dict(context.extra_body)
        return {**body, "options": {**options, **extra.pop("options", {})}, **extra}

    def parser(self, context: RequestContext) -> ChunkParser:
        return _Parser()

    async def identify(self, endpoint: ModelEndpoint, listed: list[ListedModel] | None) -> Identity:
        entries = (await endpoint.get("/api/tags", OllamaModels)).get("models") or []
        names = [str(item.get("model") or item.get("name")) for item in entries]
        if not endpoint.names_model:
            endpoint.set_model(only_model(names, endpoint))
        assert endpoint.model is not None
        if not {endpoint.model, f"{endpoint.model}:latest"} & set(names):
            raise not_served(endpoint, names, f"Fetch it first: ollama pull {endpoint.model}")
        show = await endpoint.post("/api/show", {"model": endpoint.model}, OllamaShow)
        info = show.get("model_info") or {}
        trained = count_of(info.get(f"{info.get('general.architecture')}.context_length"))
        requested = endpoint.requested_window
        if requested is not None and trained is not None and requested > trained:
            raise ConfigError(
                f"context_window is {requested:,}, but {endpoint.model} was made for "
                f"{trained:,} tokens"
            )
        window = requested or await self._loaded_window(endpoint)
        if window is None and (match := _NUM_CTX.search(show.get("parameters") or "")):
            window = count_of(int(match[1])) or None
        endpoint.thinks = "thinking" in (show.get("capabilities") or ())
        template = info.get("tokenizer.chat_template")
        return Identity(endpoint.model, window, template if isinstance(template, str) else None)

    async def window(self, endpoint: ModelEndpoint) -> int | None:
        # Ollama chooses the window by the free memory when it loads the model.
        return endpoint.context_window or await self._loaded_window(endpoint)

    async def _loaded_window(self, endpoint: ModelEndpoint) -> int | None:
        """The context window the model is loaded with; ``None`` if it is not loaded."""
        with suppress(BackendError, UnsuitableEndpointError):
            for item in (await endpoint.get("/api/ps", OllamaModels)).get("models") or ():
                if item.get("model") in (endpoint.model, f"{endpoint.model}:latest"):
                    return item.get("context_length") or None
        return None

    async def render(
        self,
        endpoint: ModelEndpoint,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        body: dict[str, Any] = {
            "model": endpoint.model,
            "messages": [_native_message(m) for m in messages],
            "stream": False,
            "truncate": False,
            "_debug_render_only": True,
            # Old versions ignore the field above and generate an answer; keep that one short.
            "options": {"num_predict": 1},
        }
        if endpoint.requested_window is not None:
            body["options"]["num_ctx"] = endpoint.requested_window
        if tools:
            body["tools"] = list(tools)
        if endpoint.thinks:
            body["think"] = bool(template_kwargs.get("enable_thinking", True))
        reply = await endpoint.post("/api/chat", body, OllamaPrompt)
        text = (reply.get("_debug_info") or {}).get("rendered_template")
        if text is not None:
            return Rendered(text)
        template = endpoint.shown_template
        if template is not None:
            text = await chat_templates.arender(template, messages, template_kwargs, tools)
            return Rendered(text)
        raise ConfigError(
            f"{endpoint.label} is an Ollama too old to show rendered prompts, and its own "
            "templates are written in Go: update it, or pass tokenizer='<Hugging Face id of the "
            "model>' or chat_template='<Jinja source>'"
        )


class _Parser(ChunkParser):
    shape = OllamaChunk

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_counts(
            report,
            prompt_tokens=chunk.get("prompt_eval_count"),
            completion_tokens=chunk.get("eval_count"),
        )
        finish = (chunk.get("done_reason") or "stop") if chunk.get("done") else None
        return [choice_of(chunk.get("response") or "", chunk.get("logprobs"), finish)]


def _native_message(message: Message) -> dict[str, Any]:
    """A message in the format of ``/api/chat``.

    Its tool calls hold their arguments as objects. ``OpenAIBackend.render`` has written calls
    whose arguments are not JSON objects as text before.
    """
    native = chat_templates.with_parsed_arguments(message)
    if native["role"] == "developer":
        native["role"] = "system"
    if native.get("tool_calls"):
        native["tool_calls"] = [{"function": call["function"]} for call in native["tool_calls"]]
    return native
