"""OpenAI text completions: ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, Report, looks_like_control
from glimp_integrations.backends.http.chunks import note_usage
from glimp_integrations.backends.http.protocols.base import (
    Ask,
    Identity,
    ModelEndpoint,
    Protocol,
    Reading,
    the_only,
    unserved,
)
from glimp_integrations.backends.http.servers import Flavour, bound_body
from glimp_integrations.errors import UnsuitableEndpointError

__all__ = ["Completions", "listed_entry"]


class Completions(Protocol):
    """See the module's docstring."""

    route = "POST /v1/completions"
    remedy = (
        "Routing continues exact text and needs POST /v1/completions; chat-only "
        "services cannot continue a chain of thought"
    )

    def path(self, root: str, ask: Ask) -> str:
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
        self, endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
    ) -> Identity:
        entry = await listed_entry(endpoint, listed)
        window, template = (entry or {}).get(endpoint.flavour.window), None
        if endpoint.flavour.renders == "apply-template":
            try:
                props = await endpoint.get("/props")
            except UnsuitableEndpointError:  # hidden by a proxy
                props = {}
            template = props.get("chat_template")
            window = props.get("default_generation_settings", {}).get("n_ctx")
        assert endpoint.model is not None
        return Identity(endpoint.model, window, template)

    async def render(
        self,
        endpoint: ModelEndpoint,
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
        if endpoint.flavour.renders == "apply-template":
            text = (await endpoint.post("/apply-template", body))["prompt"]
            ids = await self.ids(endpoint, text, prompt=True)
            return Rendered(text, tokens=None if ids is None else len(ids))
        if endpoint.flavour.renders == "tokenize":
            body |= {"model": endpoint.model, "add_generation_prompt": True}
            tokens = (await endpoint.post("/tokenize", body))["tokens"]
            told = await endpoint.post("/detokenize", {"model": endpoint.model, "tokens": tokens})
            return Rendered(told["prompt"], tokens=len(tokens))
        return None

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        try:
            if endpoint.flavour.renders == "apply-template":
                body: dict[str, Any] = {"content": text, "add_special": prompt}
            elif endpoint.flavour.renders == "tokenize":
                # A rendered prompt holds its own BOS.
                body = {"model": endpoint.model, "prompt": text, "add_special_tokens": False}
            else:
                return None
            return list((await endpoint.post("/tokenize", body))["tokens"])
        except UnsuitableEndpointError:  # the route is hidden
            return None

    async def is_control(self, endpoint: ModelEndpoint, literal: str) -> bool | None:
        if endpoint.flavour.renders == "apply-template":
            body = {"content": literal, "add_special": False}
            special = (await endpoint.post("/tokenize", {**body, "parse_special": True}))["tokens"]
            plain = (await endpoint.post("/tokenize", {**body, "parse_special": False}))["tokens"]
            if special != plain:
                return True
            # Tokens a model's makers added by name are read as such without being special.
            return len(plain) == 1 and looks_like_control(literal)
        if endpoint.flavour.renders == "tokenize":
            answer = await endpoint.post(
                "/tokenize",
                {"model": endpoint.model, "prompt": literal, "add_special_tokens": False},
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
    endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
) -> dict[str, Any] | None:
    """Our model's entry in ``/v1/models``; llama.cpp answers to any name."""
    if listed is None:
        listed = await endpoint.models() or []
    if endpoint.model is None:
        endpoint.call_it(the_only([str(item.get("id")) for item in listed], endpoint))
    for item in listed:
        known = {item.get("id"), item.get("root"), *(item.get("aliases") or ())}
        if endpoint.model in known or item.get("owned_by") == "llamacpp":
            return item
    # Hosted services serve more than they list: deployments, adapters, snapshots.
    if not listed or endpoint.flavour.hosts:
        return None
    raise unserved(
        endpoint,
        [str(item.get("id")) for item in listed],
        "Use one of these names, or start the server with this model",
    )
