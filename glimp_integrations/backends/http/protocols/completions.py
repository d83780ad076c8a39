"""OpenAI text completions: ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, Report, looks_like_control
from glimp_integrations.backends.http.chunks import note_usage
from glimp_integrations.backends.http.protocols.base import (
    ChunkParser,
    Identity,
    ModelEndpoint,
    Protocol,
    RequestContext,
    not_served,
    only_model,
)
from glimp_integrations.backends.http.replies import (
    ListedModel,
    Prompt,
    Props,
    TokenIds,
    TokenPieces,
    TokenStrings,
)
from glimp_integrations.backends.http.servers import (
    ServerProfile,
    sampling_fields,
    schema_fields,
)
from glimp_integrations.errors import UnsuitableEndpointError
from glimp_integrations.method.tokens import count_of

__all__ = ["Completions", "listed_entry", "window_of"]


class Completions(Protocol):
    """Raw text in, its continuation out; the common route of most servers."""

    route = "POST /v1/completions"
    remedy = (
        "Routing continues exact text and needs POST /v1/completions; chat-only "
        "services cannot continue a chain of thought"
    )

    def path(self, root: str, context: RequestContext) -> str:
        return "/completions"

    def body(self, context: RequestContext) -> dict[str, Any]:
        request, server = context.request, context.server
        body: dict[str, Any] = {
            "model": context.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
        }
        if server.stream_options:
            body["stream_options"] = dict(server.stream_options)
        body |= {**server.body, **sampling_fields(server, request), **context.extra_body}
        if request.distribution_only:
            body |= server.distribution_body
        body |= schema_fields(server, request.schema)
        if context.stop:
            body["stop"] = list(context.stop)
        if request.logprobs:
            body["logprobs"] = request.logprobs
        if request.seed is not None and server.seed_field is not None:
            body[server.seed_field] = request.seed
        return body

    def parser(self, context: RequestContext) -> ChunkParser:
        return _Parser(context.server)

    async def identify(self, endpoint: ModelEndpoint, listed: list[ListedModel] | None) -> Identity:
        entry = await listed_entry(endpoint, listed)
        window = window_of(entry, endpoint.server)
        template = None
        if endpoint.server.renders == "apply-template":
            try:
                props = await endpoint.get("/props", Props)
            except UnsuitableEndpointError:  # hidden by a proxy
                props = {}
            template = props.get("chat_template")
            window = count_of(props.get("default_generation_settings", {}).get("n_ctx")) or None
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
        if endpoint.server.renders == "apply-template":
            text = (await endpoint.post("/apply-template", body, Prompt))["prompt"]
            ids = await self.ids(endpoint, text, prompt=True)
            return Rendered(text, tokens=None if ids is None else len(ids))
        if endpoint.server.renders == "tokenize":
            body |= {"model": endpoint.model, "add_generation_prompt": True}
            tokens = (await endpoint.post("/tokenize", body, TokenIds))["tokens"]
            back = {"model": endpoint.model, "tokens": tokens}
            reply = await endpoint.post("/detokenize", back, Prompt)
            return Rendered(reply["prompt"], tokens=len(tokens))
        return None

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        try:
            if endpoint.server.renders == "apply-template":
                body: dict[str, Any] = {"content": text, "add_special": prompt}
            elif endpoint.server.renders == "tokenize":
                # A rendered prompt holds its own BOS.
                body = {"model": endpoint.model, "prompt": text, "add_special_tokens": False}
            else:
                return None
            return (await endpoint.post("/tokenize", body, TokenIds))["tokens"]
        except UnsuitableEndpointError:  # the route is hidden
            return None

    async def control_literals(
        self, endpoint: ModelEndpoint, literals: Sequence[str]
    ) -> set[str] | None:
        # All of them in one text: a tokenizer takes its control tokens out before it reads the
        # rest, so each is one token wherever it stands.
        text, wanted = "\n".join(literals), set(literals)
        if endpoint.server.renders == "apply-template":
            body = {"content": text, "add_special": False, "with_pieces": True}
            special, plain = [
                pieces_of(
                    await endpoint.post("/tokenize", {**body, "parse_special": parse}, TokenPieces)
                )
                for parse in (True, False)
            ]
            # A tokenizer may have added tokens that are not marked as special. They are read as
            # one token in either mode, so the comparison cannot find them.
            return wanted & {x for x in special if x not in plain or looks_like_control(x)}
        if endpoint.server.renders == "tokenize":
            body = {
                "model": endpoint.model,
                "prompt": text,
                "add_special_tokens": False,
                "return_token_strs": True,
            }
            reply = await endpoint.post("/tokenize", body, TokenStrings)
            # A whole literal that is one token is a control token, or so common a text that
            # treating it like one does no harm.
            strings = reply.get("token_strs")
            return None if strings is None else wanted & set(strings)
        return None


def pieces_of(reply: TokenPieces) -> set[str]:
    """The texts of the tokens; those that are parts of characters are left out."""
    return {token["piece"] for token in reply["tokens"] if isinstance(token["piece"], str)}


class _Parser(ChunkParser):
    def __init__(self, server: ServerProfile) -> None:
        self._cached_path = server.cached_path

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report, self._cached_path)
        finish = chunk.get("finish_reason")  # Together's SDK has it next to the choices
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if finish:
            for choice in choices:
                choice["finish_reason"] = choice.get("finish_reason") or finish
        return choices or ([{"text": "", "finish_reason": finish}] if finish else [])


def window_of(entry: ListedModel | None, server: ServerProfile) -> int | None:
    """The context window that an entry of ``/v1/models`` names; ``None`` if it names none."""
    fields: Mapping[str, Any] = entry or {}
    return count_of(fields.get(server.window_field)) or None


async def listed_entry(
    endpoint: ModelEndpoint, listed: list[ListedModel] | None
) -> ListedModel | None:
    """The model's entry in ``/v1/models``; llama.cpp answers to any name.

    Args:
        endpoint: The model; its name is set if the server serves only one.
        listed: The entries, if they were fetched already.

    Returns:
        The entry, or ``None`` where the server lists no models, or not all that it serves.

    Raises:
        ConfigError: No model is named, and the server serves several.
        UnsuitableEndpointError: The model is not among the served ones, or none is named or
            listed.
    """
    if listed is None:
        listed = await endpoint.models() or []
    if not endpoint.names_model:
        endpoint.set_model(only_model([str(item.get("id")) for item in listed], endpoint))
    for item in listed:
        names = {item.get("id"), item.get("root"), *item.get("aliases", ())}
        if endpoint.model in names or item.get("owned_by") == "llamacpp":
            return item
    # Hosted services serve more than they list: deployments, adapters, snapshots.
    if not listed or endpoint.server.hosts:
        return None
    raise not_served(
        endpoint,
        [str(item.get("id")) for item in listed],
        "Use one of these names, or start the server with this model",
    )
