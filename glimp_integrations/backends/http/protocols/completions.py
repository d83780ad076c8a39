"""OpenAI text completions: ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glimp_integrations.backends.base import Backend, Message, Rendered, Report
from glimp_integrations.backends.http.chunks import note_usage
from glimp_integrations.backends.http.protocols.base import (
    Ask,
    Identity,
    Protocol,
    Reading,
    the_only,
    unserved,
)
from glimp_integrations.backends.http.servers import Flavour, bound_body
from glimp_integrations.errors import UnsuitableEndpointError

if TYPE_CHECKING:
    from glimp_integrations.backends.http.endpoint import Endpoint
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = ["Completions", "listed_entry"]


class Completions(Protocol):
    """See the module's docstring."""

    route = "POST /v1/completions"
    remedy = (
        "Routing continues exact text and needs POST /v1/completions; chat-only "
        "services cannot continue a chain of thought"
    )

    def path(self, server: Endpoint, ask: Ask) -> str:
        return "/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        request, flavour = ask.request, ask.flavour
        body: dict[str, Any] = {
            "model": ask.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
        }
        if flavour.stream_options:
            body["stream_options"] = dict(flavour.stream_options)
        body |= {**flavour.body, **ask.extra}
        if request.distribution_only:
            body |= flavour.distribution_body
        body |= bound_body(flavour, request.schema)
        if ask.stop:
            body["stop"] = list(ask.stop)
        if request.logprobs:
            body["logprobs"] = request.logprobs
        if request.seed is not None and flavour.seed is not None:
            body[flavour.seed] = request.seed
        return body

    def reading(self, ask: Ask) -> Reading:
        return _Reading(ask.flavour)

    async def identify(
        self, server: OpenAIBackend, listed: list[dict[str, Any]] | None
    ) -> Identity:
        entry = await listed_entry(server, listed)
        window, template = (entry or {}).get(server.flavour.window), None
        if server.flavour.renders == "apply-template":
            try:
                props = await server.get("/props")
            except UnsuitableEndpointError:  # hidden by a proxy
                props = {}
            template = props.get("chat_template")
            window = props.get("default_generation_settings", {}).get("n_ctx")
        assert server.model is not None
        return Identity(server.model, window, template)

    async def render(
        self,
        server: OpenAIBackend,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        body: dict[str, Any] = {
            "messages": [dict(m) for m in messages],
            "chat_template_kwargs": dict(template_kwargs),
        }
        if tools:
            body["tools"] = list(tools)
        if server.flavour.renders == "apply-template":
            text = (await server.post("/apply-template", body))["prompt"]
            ids = await self.ids(server, text, prompt=True)
            return Rendered(text, tokens=None if ids is None else len(ids))
        if server.flavour.renders == "tokenize":
            body |= {"model": server.model, "add_generation_prompt": True}
            tokens = (await server.post("/tokenize", body))["tokens"]
            told = await server.post("/detokenize", {"model": server.model, "tokens": tokens})
            return Rendered(told["prompt"], tokens=len(tokens))
        return None

    async def ids(self, server: OpenAIBackend, text: str, *, prompt: bool) -> list[int] | None:
        try:
            if server.flavour.renders == "apply-template":
                body: dict[str, Any] = {"content": text, "add_special": prompt}
            elif server.flavour.renders == "tokenize":
                # A rendered prompt holds its own BOS.
                body = {"model": server.model, "prompt": text, "add_special_tokens": False}
            else:
                return None
            return list((await server.post("/tokenize", body))["tokens"])
        except UnsuitableEndpointError:  # the route is hidden
            return None

    async def is_control(self, server: OpenAIBackend, literal: str) -> bool | None:
        if server.flavour.renders == "apply-template":
            body = {"content": literal, "add_special": False}
            special = (await server.post("/tokenize", {**body, "parse_special": True}))["tokens"]
            plain = (await server.post("/tokenize", {**body, "parse_special": False}))["tokens"]
            if special != plain:
                return True
            # Tokens a model's makers added by name are read as such without being special.
            return len(plain) == 1 and await Backend.is_control(server, literal)
        if server.flavour.renders == "tokenize":
            answer = await server.post(
                "/tokenize",
                {"model": server.model, "prompt": literal, "add_special_tokens": False},
            )
            # One token for a whole literal: a control token, or so common that a joiner in it
            # does no harm.
            return len(answer["tokens"]) == 1
        return None


class _Reading(Reading):
    def __init__(self, flavour: Flavour) -> None:
        self._cached = flavour.cached

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report, self._cached)
        finish = chunk.get("finish_reason")  # Together's SDK has it beside the choices
        choices = [dict(choice) for choice in chunk.get("choices") or ()]
        for choice in choices:
            choice["finish_reason"] = choice.get("finish_reason") or finish
        return choices or ([{"text": "", "finish_reason": finish}] if finish else [])


async def listed_entry(
    server: OpenAIBackend, listed: list[dict[str, Any]] | None
) -> dict[str, Any] | None:
    """Our model's entry in ``/v1/models``; llama.cpp answers to any name."""
    if listed is None:
        listed = await server.models() or []
    if server.model is None:
        server.call_it(the_only([str(item.get("id")) for item in listed], server))
    for item in listed:
        known = {item.get("id"), item.get("root"), *(item.get("aliases") or ())}
        if server.model in known or item.get("owned_by") == "llamacpp":
            return item
    # Hosted services serve more than they list: deployments, adapters, snapshots.
    if not listed or server.flavour.hosts:
        return None
    raise unserved(
        server,
        [str(item.get("id")) for item in listed],
        "Use one of these names, or start the server with this model",
    )
