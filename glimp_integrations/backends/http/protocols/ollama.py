"""Ollama's own ``POST /api/generate`` with ``raw``: its ``/v1/completions`` wraps the prompt.

Sources: Ollama ``docs/openapi.yaml`` and ``docs/api.md`` ("Generate a completion", "Request (Raw
Mode)", "Show Model Information", "List Running Models"), ``api/types.go`` (``GenerateRequest``:
``truncate``, ``shift``, ``logprobs``, ``_debug_render_only``; ``ProcessModelResponse``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import Message, Rendered, Report
from glimp_integrations.backends.http.protocols.base import (
    Ask,
    Identity,
    ModelEndpoint,
    Protocol,
    Reading,
    choice_of,
    the_only,
    unserved,
)
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError

__all__ = ["Ollama"]

_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)", re.M)


class Ollama(Protocol):
    """See the module's docstring."""

    route = "POST /api/generate"
    remedy = "The flavour 'ollama' needs Ollama's own API: is base_url an Ollama server?"
    lines = True

    def path(self, root: str, ask: Ask) -> str:
        return f"{root}/api/generate"

    def body(self, ask: Ask) -> dict[str, Any]:
        request = ask.request
        options: dict[str, Any] = {
            **ask.flavour.body,
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.seed is not None:
            options["seed"] = request.seed
        if ask.stop:
            options["stop"] = list(ask.stop)
        if ask.window is not None:
            options["num_ctx"] = ask.window
        body: dict[str, Any] = {
            "model": ask.model,
            "prompt": request.prompt,
            "raw": True,
            # Even raw text is searched for thoughts otherwise.
            "think": False,
            # A prompt that is too long is an error, and not cut in secret.
            "truncate": False,
            "shift": False,
            "stream": True,
        }
        if request.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        extra = dict(ask.extra)
        return {**body, "options": {**options, **extra.pop("options", {})}, **extra}

    def reading(self, ask: Ask) -> Reading:
        return _Reading()

    async def identify(
        self, endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
    ) -> Identity:
        told = (await endpoint.get("/api/tags")).get("models") or []
        names = [str(item.get("model") or item.get("name")) for item in told]
        if endpoint.model is None:
            endpoint.call_it(the_only(names, endpoint))
        assert endpoint.model is not None
        if not {endpoint.model, f"{endpoint.model}:latest"} & set(names):
            raise unserved(endpoint, names, f"Fetch it first: ollama pull {endpoint.model}")
        show = await endpoint.post("/api/show", {"model": endpoint.model})
        info = show.get("model_info") or {}
        trained = info.get(f"{info.get('general.architecture')}.context_length")
        wanted = endpoint.wanted_window
        if wanted is not None and trained is not None and wanted > trained:
            raise ConfigError(
                f"context_window is {wanted:,}, but {endpoint.model} was made for "
                f"{trained:,} tokens"
            )
        window = wanted or await self._running(endpoint)
        if window is None and (found := _NUM_CTX.search(show.get("parameters") or "")):
            window = int(found[1])
        endpoint.thinks = "thinking" in (show.get("capabilities") or ())
        return Identity(endpoint.model, window, info.get("tokenizer.chat_template"))

    async def window(self, endpoint: ModelEndpoint) -> int | None:
        # How much memory there is decides, when the model is loaded.
        return endpoint.context_window or await self._running(endpoint)

    async def _running(self, endpoint: ModelEndpoint) -> int | None:
        with suppress(BackendError, UnsuitableEndpointError):
            for item in (await endpoint.get("/api/ps")).get("models") or ():
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
            "messages": [_parsed(m) for m in messages],
            "stream": False,
            "truncate": False,
            "_debug_render_only": True,
            # An old server does not know the field above and answers: shortly, at least.
            "options": {"num_predict": 1},
        }
        if endpoint.wanted_window is not None:
            body["options"]["num_ctx"] = endpoint.wanted_window
        if tools:
            body["tools"] = list(tools)
        if endpoint.thinks:
            body["think"] = bool(template_kwargs.get("enable_thinking", True))
        told = await endpoint.post("/api/chat", body)
        text = (told.get("_debug_info") or {}).get("rendered_template")
        if text is not None:
            return Rendered(text)
        template = endpoint.shown_template
        if template is not None:
            return Rendered(chat_templates.render(template, messages, template_kwargs, tools))
        raise ConfigError(
            f"{endpoint.label} is an Ollama too old to show rendered prompts, and its own "
            "templates are written in Go: update it, or pass tokenizer='<Hugging Face id of the "
            "model>' or chat_template='<Jinja source>'"
        )


class _Reading(Reading):
    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        if chunk.get("prompt_eval_count") is not None:
            report.prompt_tokens = chunk["prompt_eval_count"]
        if chunk.get("eval_count") is not None:
            report.completion_tokens = chunk["eval_count"]
        finish = (chunk.get("done_reason") or "stop") if chunk.get("done") else None
        return [choice_of(chunk.get("response") or "", chunk.get("logprobs"), finish)]


def _parsed(message: Message) -> dict[str, Any]:
    """A message as ``/api/chat`` reads it: a call's arguments are data, not JSON text."""
    found = dict(message)
    if found["role"] == "developer":
        found["role"] = "system"
    if found.get("tool_calls"):
        found["tool_calls"] = [
            {"function": {**call["function"], "arguments": _data(call["function"])}}
            for call in found["tool_calls"]
        ]
    return found


def _data(function: Mapping[str, Any]) -> dict[str, Any]:
    with suppress(ValueError):
        data = json.loads(function["arguments"])
        if isinstance(data, dict):
            return data
    return {"arguments": function["arguments"]}
