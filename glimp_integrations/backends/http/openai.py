"""A model behind a server that continues exact text, or, where it cannot, a chat's last message.

The name says what most of these servers imitate: OpenAI's ``/v1/completions``. Which kind of route
is spoken is the flavour's affair (``servers``, ``protocols``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import (
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
)
from glimp_integrations.backends.http import stop_strings
from glimp_integrations.backends.http.chunks import (
    complete,
    counted,
    tokens_of,
    uncounted,
    untempered,
)
from glimp_integrations.backends.http.endpoint import Endpoint
from glimp_integrations.backends.http.probing import first_use, is_tempered
from glimp_integrations.backends.http.protocols.base import Ask
from glimp_integrations.backends.http.protocols.detect import recognise
from glimp_integrations.backends.http.servers import FLAVOURS, Flavour, by_host
from glimp_integrations.backends.plain_messages import broken_calls_as_text, known_roles
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.redact import public_url

if TYPE_CHECKING:
    from glimp_integrations.backends.http.check import EndpointReport

__all__ = ["OpenAIBackend"]

_MOST_TEXTS = 4096  # of tokens that end steps; a few dozen are met
_SHORT = 4  # tokens
_RELEASE_SECONDS = 3.0
_TOP_LOGPROBS = 20


class OpenAIBackend(Endpoint):
    """A model behind a server: ``POST {base_url}/completions``, or what its flavour speaks.

    The prompt is raw text; conversations are rendered by the server where it offers that
    (llama.cpp, vLLM, Ollama, TGI), else by ``tokenizer`` or ``chat_template``. DeepSeek, Mistral
    and OpenRouter continue the last message of a chat instead; they serve as large model only.

    Args:
        model: Name of the model on the server; ``None``: the only one it serves.
        base_url: Such as ``"http://gpu1:8000/v1"``; ``None``: the address of the hosted service
            that ``flavour`` names.
        api_key: Sent as a bearer token; a plain string is wrapped at once.
        flavour: ``"auto"`` (by the host's name, else asked from the server), or a name in
            ``flavours.FLAVOURS``, such as ``"vllm"`` or ``"ollama"``.
        top_logprobs: How many log-probabilities to ask for; ``None``: 20, or as many as the
            flavour has. A threshold belongs to its k.
        tokenizer: Hugging Face id or folder whose chat template to use (extra ``hf``).
        chat_template: Jinja source, or a function from messages (and ``tools=...``, where there
            are any) to the prompt.
        template_kwargs: Passed to the template; thinking is switched on by default.
        context_window: Tokens; overrides what the server says. Ollama loads the model with it.
        extra_body: Fields added to every completion request.
        provider: Host that serves every request (OpenRouter), such as ``"deepinfra"``.
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
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        flavour: str = "auto",
        top_logprobs: int | None = None,
        tokenizer: str | None = None,
        chat_template: str | Callable[[Sequence[Message]], str] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        context_window: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        provider: str | None = None,
        verify: Literal["lazy", "off"] = "lazy",
        device: str | None = None,
    ) -> None:
        if flavour != "auto" and flavour not in FLAVOURS:
            raise ConfigError(
                f"unknown flavour {flavour!r}; known: auto, {', '.join(sorted(FLAVOURS))}"
            )
        if top_logprobs is not None and not 0 <= top_logprobs <= 1000:
            raise ConfigError(f"top_logprobs is {top_logprobs}; expected 0 to 1000")
        known = FLAVOURS.get(flavour) or (by_host(base_url) if base_url else None)
        if base_url is None:
            base_url = known.url if known is not None else None
        if base_url is None:
            raise ConfigError(
                "base_url is missing: give the server's address, such as http://gpu1:8000/v1"
            )
        pinned = provider is not None or "provider" in (extra_body or {})
        _check_flavour(known, model, base_url, top_logprobs, provider, pinned=pinned)
        if known is not None and known.protocol == "chat" and (tokenizer or chat_template):
            raise ConfigError(
                f"{known.name} renders conversations itself: leave tokenizer and chat_template out"
            )
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            flavour=known,
            extra_body=_pinned(provider) | dict(extra_body or {}),
        )
        self._top_logprobs = top_logprobs
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._template_kwargs = {**chat_templates.THINKING, **(template_kwargs or {})}
        self.thinks: bool = (template_kwargs or {}).get(
            "enable_thinking", known is not None and known.thinks
        )
        self.wanted_window = self.context_window = context_window
        self.shown_template: str | None = None
        self._verify = verify
        self._device = device
        self._can: Capabilities | None = None
        self._lock: asyncio.Lock | None = None
        self._controls: dict[str, bool] = {}
        self._slots = True
        self._tempered = False
        self._texts: dict[tuple[int, ...], str] = {}

    @property
    def top_logprobs(self) -> int:
        """How many log-probabilities a token should carry."""
        if self._top_logprobs is not None:
            return self._top_logprobs
        return min(_TOP_LOGPROBS, self.flavour.max_logprobs)

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
        can = await self.capabilities()
        if self._chat_template is not None:
            text = chat_templates.render(
                self._chat_template, messages, self._template_kwargs, tools
            )
            ids = await self.protocol.ids(self, text, prompt=True)
            return Rendered(text, tokens=None if ids is None else len(ids))
        if self._tokenizer is not None:
            return chat_templates.render_with_tokenizer(
                self._tokenizer, messages, self._template_kwargs, tools
            )
        # Servers take arguments apart, and answer broken ones with errors of their own.
        messages = broken_calls_as_text(known_roles(messages, can.template))
        try:
            rendered = await self.protocol.render(self, messages, tools, self._template_kwargs)
        except UnsuitableEndpointError:
            rendered = None  # the route is hidden: as if the server had none
        except BackendError as error:
            if error.status == 400 and not error.context_full:
                raise ConfigError(
                    f"the chat template of {self.name} refuses this conversation: {error.message}"
                ) from None
            raise
        if rendered is not None:
            return rendered
        raise ConfigError(
            f"{self.label} renders no conversations and no template was given: pass "
            "tokenizer='<Hugging Face id of the model>' or chat_template='<Jinja source>'"
        )

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        can = await self.capabilities()
        if request.stop and can.stops and not request.logprobs:
            try:
                async with aclosing(stop_strings.generate(self, request, report)) as stopped:
                    async for token in stopped:
                        yield token
            except UnsuitableEndpointError:  # the route is hidden: nothing was generated
                self._can = replace(can, stops=False)
            else:
                return
        request = replace(request, stop=())
        exact = self.flavour.token_per_chunk
        # The greedy token of a look at the raw distribution is not the one to write.
        peek = self.flavour.warped and request.logprobs > 0 and request.temperature > 0
        # Where asking for the distribution alone shows more, nothing makes up for a gap.
        by_text = not self.flavour.distribution_body
        async with aclosing(self.completion(request, report)) as choices:
            before: int | None = 0
            ahead, k = 0, request.logprobs
            async for choice in choices:
                tokens = tokens_of(choice, k=k, token_per_chunk=exact, by_text=by_text)
                tokens = complete(tokens, k)
                if before is not None:  # else earlier pieces came without a total
                    told = report.completion_tokens
                    tokens = counted(tokens, before, told)
                    if tokens:
                        tokens, ahead = uncounted(tokens, ahead, same=told == before)
                for token in tokens:
                    if self._tempered and request.temperature > 0:
                        token = untempered(token, request.temperature)
                    yield replace(token, text="", pending=True) if peek else token
                if tokens:
                    before = report.completion_tokens
        if peek:
            report.ended = "length"

    async def is_control(self, literal: str) -> bool:
        if literal not in self._controls:
            self._controls[literal] = await self._ask_control(literal)
        return self._controls[literal]

    async def tokenize(self, text: str) -> list[int] | None:
        await self.capabilities()
        if self._tokenizer is not None:
            return chat_templates.token_ids(self._tokenizer, text)
        return await self.protocol.ids(self, text, prompt=False)

    async def text_of(self, ids: Sequence[int]) -> str:
        """The text of some tokens; that of a few is asked once.

        Raises:
            UnsuitableEndpointError: The route is hidden.
            BackendError: The server failed.
        """
        key = tuple(ids)
        if not key:
            return ""
        if (known := self._texts.get(key)) is not None:
            return known
        text = str((await self.post("/detokenize", {"tokens": list(key)}))["content"])
        if len(key) <= _SHORT:
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            self._texts[key] = text
        return text

    async def wait_idle(self) -> None:
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
        """Run the endpoint probes and explain what they found."""
        from glimp_integrations.backends.http.check import check

        return await check(self)

    async def identify(self) -> str | None:
        """Ask who serves what; fills in model, flavour and context window.

        Returns:
            Source of the chat template, where it can be had.
        """
        listed: list[dict[str, Any]] | None = None
        if self._flavour is None:
            listed = await self.models() or []
            self._flavour = await recognise(self, listed)
        found = await self.protocol.identify(self, listed)
        self.shown_template = found.template
        self.context_window = self.wanted_window or found.window
        if isinstance(self._chat_template, str):
            return self._chat_template
        if self._tokenizer is not None:
            return chat_templates.tokenizer_template(self._tokenizer)
        return found.template

    # -- inside ------------------------------------------------------------------------------

    def _ask(self, request: Request, stop: Sequence[str]) -> Ask:
        return replace(super()._ask(request, stop), window=self.wanted_window)

    async def _discover(self) -> Capabilities:
        template = await self.identify()
        self._tempered = self.flavour.tempered
        top, streamed, refusal = self.top_logprobs, True, None
        if not self.flavour.max_logprobs:
            top, streamed = 0, False
            refusal = (
                f"{self.flavour.name} continues a chat, and shows no log-probabilities with that"
            )
        elif self._verify == "lazy":
            top, streamed, refusal = await first_use(self)
            if self._tempered and top:  # unless it was started otherwise
                self._tempered = await is_tempered(self)
        self.context_window = await self.protocol.window(self)
        return Capabilities(
            context_window=self.context_window,
            top_logprobs=top,
            wanted_logprobs=self.top_logprobs,
            streamed_logprobs=streamed and not self.flavour.warped,
            supports_schema=self.flavour.binding is not None,
            stops=self.flavour.stops,
            device=self._device,
            template=template,
            logprobs_refusal=refusal,
        )

    async def _ask_control(self, literal: str) -> bool:
        if self._tokenizer is not None:
            return chat_templates.is_control(self._tokenizer, literal)
        try:
            told = await self.protocol.is_control(self, literal)
        except UnsuitableEndpointError:  # the route is hidden
            told = None
        return await super().is_control(literal) if told is None else told


def _check_flavour(
    flavour: Flavour | None,
    model: str | None,
    base_url: str,
    top_logprobs: int | None,
    provider: str | None,
    *,
    pinned: bool,
) -> None:
    """What a flavour that is known beforehand needs."""
    if flavour is None or not flavour.pins:
        if provider is not None:
            raise ConfigError(
                f"provider is {provider!r}, but only flavour 'openrouter' passes requests on"
            )
        if flavour is None:
            return
    elif not pinned:
        raise ConfigError(
            f"{flavour.name} may send every step to another host, with other weights: name one "
            f"with provider='...' or as '{flavour.name}:{model or 'MODEL'}@PROVIDER'"
        )
    if flavour.hosts and model is None:
        raise ConfigError(f"{flavour.name} serves many models: name one with model=...")
    if top_logprobs and not flavour.max_logprobs:
        raise ConfigError(
            f"top_logprobs is {top_logprobs}, but {flavour.name} continues a chat and shows no "
            "log-probabilities with that: leave it out, and use it as the large model"
        )
    # The service ignores "prefix" elsewhere, and starts a new answer at every step.
    if flavour.name == "deepseek" and _host(base_url) in flavour.hosts:
        wanted = flavour.url or ""
        if base_url.rstrip("/") != wanted:
            raise ConfigError(
                f"base_url is {public_url(base_url)!r}, where deepseek continues no messages: "
                f"use {wanted}"
            )


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _pinned(provider: str | None) -> dict[str, Any]:
    if provider is None:
        return {}
    return {"provider": {"order": [provider], "allow_fallbacks": False}}
