"""Text Generation Inference: ``POST /generate_stream``.

Sources: TGI ``docs/openapi.json`` (``GenerateParameters``, ``StreamResponse``, ``StreamDetails``,
``Info``, ``ChatTokenizeResponse``); ``router/src/validation.rs`` (``top_p`` is below 1,
``decoder_input_details`` is refused while streaming).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, Report
from glimp_integrations.backends.http.chunks import note_counts
from glimp_integrations.backends.http.protocols.base import (
    ChunkParser,
    Identity,
    ModelEndpoint,
    Protocol,
    RequestContext,
    choice_of,
)
from glimp_integrations.backends.http.replies import (
    ListedModel,
    TgiChunk,
    TgiInfo,
    TgiPrompt,
    TgiToken,
)
from glimp_integrations.backends.http.servers import sampling_fields
from glimp_integrations.errors import UnsuitableEndpointError

__all__ = ["Tgi"]


class Tgi(Protocol):
    """TGI's own API, with up to five log-probabilities a token."""

    route = "POST /generate_stream"
    remedy = "server='tgi' needs TGI's own API: is base_url a TGI server?"

    def path(self, root: str, context: RequestContext) -> str:
        return f"{root}/generate_stream"

    def body(self, context: RequestContext) -> dict[str, Any]:
        request = context.request
        parameters: dict[str, Any] = {
            **context.server.body,
            "max_new_tokens": request.max_tokens,
            "details": True,
        }
        # TGI reports log-probabilities of the distribution that it samples from. Only greedy
        # decoding leaves it as the model made it, so requests for log-probabilities are greedy.
        if request.logprobs:
            request = replace(request, temperature=0.0)
        parameters |= sampling_fields(context.server, request)
        if request.temperature > 0:
            parameters |= {"do_sample": True, "temperature": request.temperature}
            if request.top_p < 1:
                parameters["top_p"] = request.top_p
            if request.seed is not None:
                parameters["seed"] = request.seed + 1  # 0 is refused
        if request.logprobs:
            parameters["top_n_tokens"] = request.logprobs
        if context.stop:
            parameters["stop"] = list(context.stop)
        extra = dict(context.extra_body)
        parameters |= extra.pop("parameters", {})
        return {"inputs": request.prompt, "parameters": parameters, **extra}

    def parser(self, context: RequestContext) -> ChunkParser:
        return _Parser()

    async def identify(self, endpoint: ModelEndpoint, listed: list[ListedModel] | None) -> Identity:
        info = await endpoint.get("/info", TgiInfo)
        if not endpoint.names_model:  # it answers to any name
            endpoint.set_model(str(info.get("model_id") or "the served model"))
        assert endpoint.model is not None
        return Identity(endpoint.model, info.get("max_total_tokens"))

    async def render(
        self,
        endpoint: ModelEndpoint,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        body: dict[str, Any] = {"messages": [dict(m) for m in messages]}
        if tools:
            body["tools"] = list(tools)
        reply = await endpoint.post("/chat_tokenize", body, TgiPrompt)
        text, tokens = reply["templated_text"], reply["tokenize_response"]
        # /generate_stream always adds a BOS, so the one in the rendered text has to go.
        bos = await self._bos(endpoint)
        if bos is not None and tokens and tokens[0]["id"] == bos:
            text = text.removeprefix(tokens[0]["text"])
        return Rendered(text, tokens=len(tokens))

    async def _bos(self, endpoint: ModelEndpoint) -> int | None:
        """The id of the BOS that the server adds; ``None`` if it adds none or cannot tell."""
        try:
            tokens = await endpoint.post("/tokenize", {"inputs": "a"}, list[TgiToken])
        except UnsuitableEndpointError:
            return None
        # A first token that covers none of the text was added to it.
        return next((t["id"] for t in tokens[:1] if t["start"] == t["stop"]), None)

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        try:
            tokens = await endpoint.post("/tokenize", {"inputs": text}, list[TgiToken])
        except UnsuitableEndpointError:
            return None
        return [t["id"] for t in tokens if prompt or t["start"] != t["stop"]]


class _Parser(ChunkParser):
    shape = TgiChunk

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        details = chunk.get("details") or {}
        finish = details.get("finish_reason")
        note_counts(
            report,
            prompt_tokens=details.get("input_length"),
            completion_tokens=details.get("generated_tokens"),
        )
        token = chunk["token"]
        ended = finish == "eos_token"
        text = "" if ended else token.get("text") or ""
        tops = [t for t in chunk.get("top_tokens") or () if t.get("logprob") is not None]
        # A token that is the first part of a character has no text yet. U+FFFD marks it as such.
        incomplete = not text and not ended and not token.get("special")
        entry = {"token": "\ufffd" if incomplete else text, "top_logprobs": tops}
        return [choice_of(text, [entry], finish)]
