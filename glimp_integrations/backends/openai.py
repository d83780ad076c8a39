"""Any server with an OpenAI-compatible ``/v1/completions`` that exposes log-probabilities."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from glimp_integrations.backends import templates
from glimp_integrations.backends.base import (
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
)
from glimp_integrations.backends.endpoint import Endpoint
from glimp_integrations.backends.flavours import FLAVOURS, GENERIC
from glimp_integrations.backends.wire import counted, tokens_of, without_gaps
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError

if TYPE_CHECKING:
    from glimp_integrations.backends.probes import EndpointReport

__all__ = ["OpenAIBackend"]

_RELEASE_SECONDS = 3.0


class OpenAIBackend(Endpoint):
    """A model behind ``POST {base_url}/completions``.

    The prompt is raw text; conversations are rendered by the server where it offers that
    (llama.cpp, vLLM), else by ``tokenizer`` or ``chat_template``.

    Args:
        model: Name of the model on the server; ``None``: the only one it serves.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token; a plain string is wrapped at once.
        flavour: ``"auto"`` (asked from the server), ``"llama.cpp"``, ``"vllm"``, ``"sglang"`` or
            ``"generic"``.
        top_logprobs: How many log-probabilities to ask for. A threshold belongs to its k.
        tokenizer: Hugging Face id or folder whose chat template to use (extra ``hf``).
        chat_template: Jinja source, or a function from messages (and ``tools=...``, where there
            are any) to the prompt.
        template_kwargs: Passed to the template; thinking is switched on by default.
        context_window: Tokens; overrides what the server says.
        extra_body: Fields added to every completion request.
        verify: ``"lazy"``: one small request before the first use finds prompts that are wrapped
            in a template and missing log-probabilities; ``"off"``: believe in the server.
        device: Name shared by backends that compute on the same device.

    Raises:
        ConfigError: An argument has an impossible value.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str,
        api_key: str | SecretStr | None = None,
        flavour: str = "auto",
        top_logprobs: int = 20,
        tokenizer: str | None = None,
        chat_template: str | Callable[[Sequence[Message]], str] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        context_window: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        verify: Literal["lazy", "off"] = "lazy",
        device: str | None = None,
    ) -> None:
        if flavour != "auto" and flavour not in FLAVOURS:
            raise ConfigError(
                f"unknown flavour {flavour!r}; known: auto, {', '.join(sorted(FLAVOURS))}"
            )
        if not 0 <= top_logprobs <= 1000:
            raise ConfigError(f"top_logprobs is {top_logprobs}; expected 0 to 1000")
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            flavour=None if flavour == "auto" else FLAVOURS[flavour],
            extra_body=extra_body,
        )
        self.top_logprobs = top_logprobs
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._template_kwargs = {**templates.THINKING, **(template_kwargs or {})}
        self.context_window = context_window
        self._verify = verify
        self._device = device
        self._can: Capabilities | None = None
        self._lock: asyncio.Lock | None = None
        self._controls: dict[str, bool] = {}
        self._slots = True

    # -- contract ----------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        if self._can is None:
            self._lock = self._lock or asyncio.Lock()
            async with self._lock:
                if self._can is None:
                    self._can = await self._discover()
        return self._can

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        await self.capabilities()
        if self._chat_template is not None:
            text = templates.render(self._chat_template, messages, self._template_kwargs, tools)
            return Rendered(text, tokens=await self._count(text))
        if self._tokenizer is not None:
            return templates.render_with_tokenizer(
                self._tokenizer, messages, self._template_kwargs, tools
            )
        try:
            if self.flavour.renders == "apply-template":
                return await self._render_llama_cpp(messages, tools)
            if self.flavour.renders == "tokenize":
                return await self._render_vllm(messages, tools)
        except UnsuitableEndpointError:
            pass  # the route is hidden: as if the server had none
        except BackendError as error:
            if error.status == 400 and not error.context_full:
                raise ConfigError(
                    f"the chat template of {self.name} refuses this conversation: {error.message}"
                ) from None
            raise
        raise ConfigError(
            f"{self.label} renders no conversations and no template was given: pass "
            "tokenizer='<Hugging Face id of the model>' or chat_template='<Jinja source>'"
        )

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        await self.capabilities()
        exact = self.flavour.token_per_chunk
        # Where asking for the distribution alone shows more, one with gaps counts as none.
        again = self.flavour.distribution_body and not request.distribution_only
        async with aclosing(self.completion(request, report)) as choices:
            before: int | None = None
            async for choice in choices:
                tokens = tokens_of(choice, k=request.logprobs, token_per_chunk=exact)
                if again:
                    tokens = without_gaps(tokens, request.logprobs)
                for token in counted(tokens, before, report.completion_tokens):
                    yield token
                if tokens:
                    before = report.completion_tokens

    async def is_control(self, literal: str) -> bool:
        if literal not in self._controls:
            try:
                self._controls[literal] = await self._ask_control(literal)
            except UnsuitableEndpointError:  # the route is hidden
                self._controls[literal] = await super().is_control(literal)
        return self._controls[literal]

    async def tokenize(self, text: str) -> list[int] | None:
        await self.capabilities()
        if self._tokenizer is not None:
            return templates.token_ids(self._tokenizer, text)
        return await self._server_ids(text, add_special=False)

    async def released(self) -> None:
        if self._can is None or not self._slots or self._device is None:
            return
        # The server needs up to one pass to notice the closed connection. Starting the other
        # model on the same cores before that slows both down many times over.
        give_up = time.monotonic() + _RELEASE_SECONDS
        while time.monotonic() < give_up:
            try:
                slots = await self.get("/slots", max_retries=0)
            except (BackendError, UnsuitableEndpointError):
                self._slots = False  # not offered by this server
                return
            busy = sum(bool(slot.get("is_processing")) for slot in slots)
            if busy <= self._streams:
                return
            await asyncio.sleep(0.003)

    async def check(self) -> EndpointReport:
        """Run the endpoint probes P0-P4 and P6 and explain what they found."""
        from glimp_integrations.backends.probes import check

        return await check(self)

    async def identify(self) -> str | None:
        """Ask who serves what; fills in model, flavour and context window.

        Returns:
            Source of the chat template, where it can be had.
        """
        entry = self._pick(await self.models())
        if self._flavour is None:
            owner = (entry or {}).get("owned_by", "")
            self._flavour = next(
                (f for f in FLAVOURS.values() if f.owned_by and f.owned_by == owner), GENERIC
            )
        window, template = (entry or {}).get("max_model_len"), None
        if self.flavour.renders == "apply-template":
            try:
                props = await self.get("/props")
            except UnsuitableEndpointError:  # hidden by a proxy
                props = {}
            template = props.get("chat_template")
            window = props.get("default_generation_settings", {}).get("n_ctx")
        self.context_window = self.context_window or window
        if isinstance(self._chat_template, str):
            return self._chat_template
        if self._tokenizer is not None:
            return templates.tokenizer_template(self._tokenizer)
        return template

    # -- inside ------------------------------------------------------------------------------

    async def _discover(self) -> Capabilities:
        template = await self.identify()
        top, streamed, refusal = self.top_logprobs, True, None
        if self._verify == "lazy":
            from glimp_integrations.backends.probes import first_use

            top, streamed, refusal = await first_use(self)
        return Capabilities(
            context_window=self.context_window,
            top_logprobs=top,
            wanted_logprobs=self.top_logprobs,
            streamed_logprobs=streamed,
            binds=self.flavour.binding is not None,
            device=self._device,
            template=template,
            logprobs_refusal=refusal,
        )

    def _pick(self, served: list[dict[str, Any]] | None) -> dict[str, Any] | None:
        """The entry of our model; llama.cpp answers to any name."""
        names = [str(item.get("id")) for item in served or ()]
        if self._model is None:
            if len(names) != 1:
                raise ConfigError(
                    f"{self.url} serves {names or 'no listed models'}: name one with model=..."
                )
            self._model = self.name = names[0]
        if not served:
            return None
        for item in served:
            known = {item.get("id"), item.get("root"), *(item.get("aliases") or ())}
            if self._model in known or item.get("owned_by") == "llamacpp":
                return item
        raise UnsuitableEndpointError(
            probe="P0 identity",
            server=f"{self._model} at {self.url}",
            detail=f"the model is not served here; served: {names}",
            remedy="Use one of these names, or start the server with this model",
        )

    async def _render_llama_cpp(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Rendered:
        body: dict[str, Any] = {
            "messages": [dict(m) for m in messages],
            "chat_template_kwargs": self._template_kwargs,
        }
        if tools:
            body["tools"] = list(tools)
        text = (await self.post("/apply-template", body))["prompt"]
        return Rendered(text, tokens=await self._count(text))

    async def _render_vllm(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Rendered:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(m) for m in messages],
            "add_generation_prompt": True,
            "chat_template_kwargs": self._template_kwargs,
        }
        if tools:
            body["tools"] = list(tools)
        tokens = (await self.post("/tokenize", body))["tokens"]
        text = await self.post("/detokenize", {"model": self._model, "tokens": tokens})
        return Rendered(text["prompt"], tokens=len(tokens))

    async def _count(self, text: str) -> int | None:
        """Tokens of a prompt, where the server counts them."""
        ids = await self._server_ids(text, add_special=True)
        return None if ids is None else len(ids)

    async def _server_ids(self, text: str, *, add_special: bool) -> list[int] | None:
        try:
            if self.flavour.renders == "apply-template":
                body: dict[str, Any] = {"content": text, "add_special": add_special}
            elif self.flavour.renders == "tokenize":
                # A rendered prompt holds its own BOS.
                body = {"model": self._model, "prompt": text, "add_special_tokens": False}
            else:
                return None
            return list((await self.post("/tokenize", body))["tokens"])
        except UnsuitableEndpointError:  # the route is hidden
            return None

    async def _ask_control(self, literal: str) -> bool:
        if self._tokenizer is not None:
            return templates.is_control(self._tokenizer, literal)
        if self.flavour.renders == "apply-template":
            body = {"content": literal, "add_special": False}
            special = (await self.post("/tokenize", {**body, "parse_special": True}))["tokens"]
            plain = (await self.post("/tokenize", {**body, "parse_special": False}))["tokens"]
            if special != plain:
                return True
            # Tokens a model's makers added by name are read as such without being special.
            return len(plain) == 1 and await super().is_control(literal)
        if self.flavour.renders == "tokenize":
            answer = await self.post(
                "/tokenize",
                {"model": self._model, "prompt": literal, "add_special_tokens": False},
            )
            # One token for a whole literal: a control token, or so common that a joiner in it
            # does no harm.
            return len(answer["tokens"]) == 1
        return await super().is_control(literal)
