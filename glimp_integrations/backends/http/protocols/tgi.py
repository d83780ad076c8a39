"""Text Generation Inference: ``POST /generate_stream``.

Sources: TGI ``docs/openapi.json`` (``GenerateParameters``, ``StreamResponse``, ``StreamDetails``,
``Info``, ``ChatTokenizeResponse``); ``router/src/validation.rs`` (``top_p`` is below 1,
``decoder_input_details`` is refused while streaming).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Message, Rendered, Report
from glimp_integrations.backends.http.protocols.base import (
    Ask,
    Identity,
    ModelEndpoint,
    Protocol,
    Reading,
    choice_of,
)
from glimp_integrations.errors import UnsuitableEndpointError

__all__ = ["Tgi"]


class Tgi(Protocol):
    """See the module's docstring."""

    route = "POST /generate_stream"
    remedy = "The flavour 'tgi' needs TGI's own API: is base_url a TGI server?"

    def path(self, root: str, ask: Ask) -> str:
        return f"{root}/generate_stream"

    def body(self, ask: Ask) -> dict[str, Any]:
        request = ask.request
        parameters: dict[str, Any] = {
            **ask.flavour.body,
            "max_new_tokens": request.max_tokens,
            "details": True,
        }
        # Where log-probabilities are wanted nothing may warp them: greedy ones are raw.
        if request.temperature > 0 and not request.logprobs:
            parameters |= {"do_sample": True, "temperature": request.temperature}
            if request.top_p < 1:
                parameters["top_p"] = request.top_p
            if request.seed is not None:
                parameters["seed"] = request.seed + 1  # 0 is refused
        if request.logprobs:
            parameters["top_n_tokens"] = request.logprobs
        if ask.stop:
            parameters["stop"] = list(ask.stop)
        extra = dict(ask.extra)
        parameters |= extra.pop("parameters", {})
        return {"inputs": request.prompt, "parameters": parameters, **extra}

    def reading(self, ask: Ask) -> Reading:
        return _Reading()

    async def identify(
        self, endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
    ) -> Identity:
        info = await endpoint.get("/info")
        if endpoint.model is None:  # it answers to any name
            endpoint.call_it(str(info["model_id"]))
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
        told = await endpoint.post("/chat_tokenize", body)
        text, tokens = told["templated_text"], told["tokenize_response"]
        # /generate_stream adds a BOS of its own, and cannot be told not to.
        bos = await self._bos(endpoint)
        if bos is not None and tokens and tokens[0]["id"] == bos:
            text = text.removeprefix(tokens[0]["text"])
        return Rendered(text, tokens=len(tokens))

    async def _bos(self, endpoint: ModelEndpoint) -> int | None:
        try:
            first = (await endpoint.post("/tokenize", {"inputs": "a"}))[0]
        except UnsuitableEndpointError:
            return None
        # A token of no text in front of the text.
        return first["id"] if first["start"] == first["stop"] else None

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        try:
            tokens = await endpoint.post("/tokenize", {"inputs": text})
        except UnsuitableEndpointError:
            return None
        return [t["id"] for t in tokens if prompt or t["start"] != t["stop"]]


class _Reading(Reading):
    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        details = chunk.get("details") or {}
        finish = details.get("finish_reason")
        report.completion_tokens = details.get("generated_tokens", report.completion_tokens)
        report.prompt_tokens = details.get("input_length", report.prompt_tokens)
        token = chunk["token"]
        ended = finish == "eos_token"
        text = "" if ended else token.get("text") or ""
        tops = [t for t in chunk.get("top_tokens") or () if t.get("logprob") is not None]
        # A token that only begins a character has no text yet.
        begun = not text and not ended and not token.get("special")
        entry = {"token": "\ufffd" if begun else text, "top_logprobs": tops}
        return [choice_of(text, [entry], finish)]
