"""A model on a server that continues exact text, or else the last message of a chat.

Named after OpenAI's ``/v1/completions``, which most of these servers imitate. Which kind of route
a server offers, and what it does differently, is data (``servers``, ``protocols``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.base import (
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
    hands_over,
    looks_like_control,
)
from glimp_integrations.backends.http import stop_strings
from glimp_integrations.backends.http.endpoint import Endpoint
from glimp_integrations.backends.http.offered import Offered
from glimp_integrations.backends.http.options import check_options, find_server, provider_field
from glimp_integrations.backends.http.probing import applies_temperature, first_use
from glimp_integrations.backends.http.protocols.base import RequestContext
from glimp_integrations.backends.http.protocols.detect import detect_server
from glimp_integrations.backends.http.replies import BusySlot, DetokenizedText, ListedModel
from glimp_integrations.backends.http.servers import GENERIC, ServerProfile
from glimp_integrations.backends.http.token_reader import TokenReader
from glimp_integrations.backends.http.users_client import given_client
from glimp_integrations.backends.plain_messages import broken_calls_as_text, known_roles
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.forks import LoopLock

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from glimp_integrations.backends.http.check import EndpointReport

__all__ = ["OpenAIBackend"]

# Texts of token ids that are kept: the ends of steps are made of a few dozen different ones.
_MAX_CACHED_TEXTS = 4096
_MAX_CACHED_TOKENS = 4  # longer sequences of ids hardly ever come twice
_IDLE_SECONDS = 3.0
_TOP_LOGPROBS = 20


# Attributes that are asked of the server.
_FOUND_OUT = (
    "_profile",
    "_undoes_temperature",
    "context_window",
    "model",
    "name",
    "shown_template",
    "thinks",
)


class OpenAIBackend(Endpoint):
    """A model on a server: by ``POST {base_url}/completions``, or the server's own route.

    The prompt is raw text. Conversations are rendered by the server where it offers that
    (llama.cpp, vLLM, Ollama, TGI), otherwise with ``tokenizer`` or ``chat_template``. DeepSeek,
    Mistral and OpenRouter continue the last message of a chat instead; they serve as the large
    model only.

    Args:
        model: Name of the model on the server; ``None`` for the only one it serves.
        base_url: Such as ``"http://gpu1:8000/v1"``; ``None`` for the address of the hosted
            service that ``server`` names.
        api_key: Sent as a bearer token; a plain string is wrapped at once.
        server: The kind of server: a name in ``servers.SERVERS``, such as ``"vllm"`` or
            ``"ollama"``. ``"auto"`` finds out from the host name, or asks the server.
        top_logprobs: How many log-probabilities to ask for; ``None`` for 20, or as many as the
            server has. A threshold belongs to one number of them.
        tokenizer: Hugging Face id or folder whose chat template to use (extra ``hf``).
        chat_template: Jinja source, or a function from messages (and ``tools=...``, if there are
            any) to the prompt.
        template_kwargs: Passed to the template. Thinking is switched on by default.
        context_window: In tokens; overrides what the server reports. Ollama loads the model with
            it.
        extra_body: Fields added to every completion request.
        headers: Sent with every request, for example to a gateway; those of a call replace them.
            Kept out of logs, errors and ``repr`` as ``api_key`` is.
        provider: Provider that serves every request (OpenRouter), such as ``"deepinfra"``.
        verify: ``"lazy"`` sends one small request before the first use, to find prompts that are
            wrapped in a template and missing log-probabilities. ``"off"`` trusts the server.
        device: A name shared by backends that compute on the same device.
        client: An ``openai.AsyncOpenAI`` or ``openai.AsyncAzureOpenAI`` that you have set up, in
            place of ``base_url``, ``api_key`` and ``headers``. All that it is set to holds. A
            client with an ``http_client`` of its own belongs to the backend, which closes it.

    Raises:
        ConfigError: An argument has an impossible value.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        server: str = "auto",
        top_logprobs: int | None = None,
        tokenizer: str | None = None,
        chat_template: str | Callable[[Sequence[Message]], str] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        context_window: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        provider: str | None = None,
        verify: Literal["lazy", "off"] = "lazy",
        device: str | None = None,
        client: AsyncOpenAI | None = None,
    ) -> None:
        users = given_client(client, base_url=base_url, api_key=api_key, headers=headers)
        if users is not None:
            base_url = users.base_url
        profile, base_url = find_server(server, base_url)
        check_options(
            profile,
            model=model,
            base_url=base_url,
            top_logprobs=top_logprobs,
            provider=provider,
            names_provider=provider is not None or "provider" in (extra_body or {}),
            has_template=bool(tokenizer or chat_template),
        )
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            profile=profile,
            extra_body=provider_field(provider) | dict(extra_body or {}),
            headers=headers,
            users_client=users,
        )
        self._top_logprobs = top_logprobs
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._template_kwargs = {**chat_templates.THINKING, **(template_kwargs or {})}
        self.thinks: bool = (template_kwargs or {}).get(
            "enable_thinking", profile is not None and profile.reasons_by_default
        )
        self.requested_window = self.context_window = context_window
        self.shown_template: str | None = None
        self._verify = verify
        self._device = device
        self._given_profile = profile
        self._capabilities: Capabilities | None = None
        self._stale = False  # what was found out has to be asked anew
        self._doubted = False  # less was found out the last time than is known
        self._lock = LoopLock()
        self._control_literals: dict[str, bool] = {}
        self._shows_slots = True
        self._undoes_temperature = False
        self._texts: dict[tuple[int, ...], str] = {}

    @property
    def top_logprobs(self) -> int:
        """How many log-probabilities every token should carry."""
        if self._top_logprobs is not None:
            return self._top_logprobs
        return min(_TOP_LOGPROBS, self.server.max_logprobs)

    # -- the contract of Backend ---------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        known, lock = self._capabilities, self._lock.here()
        # Other calls go on with what was known until there is something new: a server that does
        # not answer one of them must not hold up all.
        if known is not None and (not self._stale or lock.locked()):
            return known
        async with lock:
            if self._capabilities is not None and not self._stale:
                return self._capabilities  # somebody else has just asked
            return await self._ask_server()

    async def _ask_server(self) -> Capabilities:
        """Ask the server what it is, and take that over."""
        await self._connected()
        # Asked through a copy: calls that run meanwhile see all of the news, or none.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        found, known = await copy._discover(), self._capabilities
        # One odd reply, to a question that calls share, would spoil all of them. If it lasts, the
        # next one is believed.
        if known and not self._doubted and self._is_poorer(found, known, copy.server):
            self._doubted = self._stale = True
            return known
        self._doubted = self._stale = False
        for name in _FOUND_OUT:
            setattr(self, name, getattr(copy, name))
        self._capabilities = found
        return found

    def _is_poorer(self, found: Capabilities, known: Capabilities, server: ServerProfile) -> bool:
        """Whether less was found out than is known."""
        return (
            (server is GENERIC and self.server is not GENERIC)
            or (found.template is None and known.template is not None)
            or found.top_logprobs < known.top_logprobs
            or found.streamed_logprobs < known.streamed_logprobs
        )

    def ask_again(self) -> None:
        self._stale = True
        self.reasoning_name = self.shows_tools = None
        self._shows_slots = True
        self._control_literals.clear()
        self._texts.clear()

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        capabilities = await self.capabilities()
        if self._chat_template is not None:
            text = await chat_templates.arender(
                self._chat_template, messages, self._template_kwargs, tools
            )
            ids = await self.protocol.ids(self, text, prompt=True)
            return Rendered(text, tokens=None if ids is None else len(ids))
        if self._tokenizer is not None:
            return await chat_templates.arender_with_tokenizer(
                self._tokenizer, messages, self._template_kwargs, tools
            )
        # Servers parse the arguments of tool calls, and answer invalid ones with obscure errors.
        messages = broken_calls_as_text(known_roles(messages, capabilities.template))
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
        raise UnsuitableEndpointError(
            probe="P0 template",
            server=self.label,
            detail="it renders no conversations, and no template was given",
            remedy="Pass tokenizer='<Hugging Face id of the model>' or "
            "chat_template='<Jinja source>'",
        )

    @hands_over
    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        capabilities = await self.capabilities()
        if request.stop and capabilities.supports_stop and not request.logprobs:
            try:
                async with aclosing(stop_strings.generate(self, request, report)) as tokens:
                    async for token in tokens:
                        yield token
                return
            except UnsuitableEndpointError:
                # The route for stop strings is hidden, and nothing was generated: go on without.
                self._capabilities = replace(capabilities, supports_stop=False)
        request, take = replace(request, stop=(), take=None), request.take
        processed = self.server.logprobs_mode == "processed" and request.temperature > 0
        penalised = request.penalises and not self.server.raw_under_penalties
        # Raw distributions of such a server are those of greedy decoding, or without penalties.
        # What it writes then is not the token to write, so the tokens come without text, and the
        # stream counts as cut off.
        hides_text = request.logprobs > 0 and (processed or penalised)
        if hides_text:
            request = replace(request, presence_penalty=None, repetition_penalty=None)
        reader = TokenReader(
            request, report, self.server, undoes_temperature=self._undoes_temperature
        )

        def without_text(choice: Mapping[str, Any]) -> Sequence[Token]:
            return [replace(token, text="", pending=True) for token in reader.tokens(choice)]

        offered = Offered(without_text if hides_text else reader.tokens, take)
        async with self._completed(request, report, take=offered.take) as choices:
            async for choice in choices:
                for token in offered.left(choice):
                    yield token
        if hides_text:
            report.ended = "length"

    async def is_control(self, literal: str) -> bool:
        return literal in await self.control_literals({literal})

    async def control_literals(self, literals: set[str]) -> set[str]:
        unknown = literals - self._control_literals.keys()
        if unknown:
            await self.capabilities()
            control = await self._find_control(unknown)
            if len(self._control_literals) > _MAX_CACHED_TEXTS:
                self._control_literals.clear()
            self._control_literals |= {literal: literal in control for literal in unknown}
        return {literal for literal in literals if self._control_literals.get(literal)}

    async def own_control_tokens(self) -> set[str] | None:
        return None if self._tokenizer is None else chat_templates.control_tokens(self._tokenizer)

    async def tokenize(self, text: str) -> list[int] | None:
        await self.capabilities()
        if self._tokenizer is not None:
            return chat_templates.token_ids(self._tokenizer, text)
        return await self.protocol.ids(self, text, prompt=False)

    async def wait_idle(self) -> None:
        if self._capabilities is None or not self._shows_slots or self._device is None:
            return
        # The server needs up to one pass to notice the closed connection. Starting the other
        # model on the same cores before that slows both down many times over.
        deadline = time.monotonic() + _IDLE_SECONDS
        while time.monotonic() < deadline:
            try:
                slots = await self.get("/slots", list[BusySlot], max_retries=0)
            except UnsuitableEndpointError:
                self._shows_slots = False  # not offered by this server
                return
            except BackendError:
                return
            busy = sum(bool(slot.get("is_processing")) for slot in slots)
            if busy <= self._open_streams:
                return
            await asyncio.sleep(0.003)

    # -- for protocols and probes --------------------------------------------------------------

    async def check(self) -> EndpointReport:
        """Run all endpoint probes and explain what they found."""
        from glimp_integrations.backends.http.check import check

        return await check(self)

    async def identify(self) -> str | None:
        """Find out what is served; sets model, server and context window.

        Returns:
            Source of the chat template, if available.

        Raises:
            ConfigError: No model is named, and the server does not serve exactly one.
            UnsuitableEndpointError: The model is not served there.
            BackendError: The server cannot be reached.
        """
        listed: list[ListedModel] | None = None
        if self._given_profile is None:
            listed = await self.models() or []
            self._profile = await detect_server(self, listed)
        identity = await self.protocol.identify(self, listed)
        self.shown_template = identity.template
        self.context_window = self.requested_window or identity.window
        if isinstance(self._chat_template, str):
            return self._chat_template
        if self._tokenizer is not None:
            return chat_templates.tokenizer_template(self._tokenizer)
        return identity.template

    async def text_of(self, ids: Sequence[int]) -> str:
        """The text of some token ids; the texts of short sequences are cached.

        Raises:
            UnsuitableEndpointError: The route is hidden.
            BackendError: The server failed.
        """
        key = tuple(ids)
        if not key:
            return ""
        if (cached := self._texts.get(key)) is not None:
            return cached
        reply = await self.post("/detokenize", {"tokens": list(key)}, DetokenizedText)
        text = reply["content"]
        if len(key) <= _MAX_CACHED_TOKENS:
            if len(self._texts) >= _MAX_CACHED_TEXTS:
                self._texts.clear()
            self._texts[key] = text
        return text

    # -- inside --------------------------------------------------------------------------------

    def _context(self, request: Request, stop: Sequence[str]) -> RequestContext:
        return replace(super()._context(request, stop), window=self.requested_window)

    async def _discover(self) -> Capabilities:
        template = await self.identify()
        self._undoes_temperature = self.server.logprobs_mode == "temperature"
        top, streamed, refusal = self.top_logprobs, True, None
        if not self.server.max_logprobs:
            top, streamed = 0, False
            refusal = (
                f"{self.server.name} continues a chat, and shows no log-probabilities with that"
            )
        elif self._verify == "lazy":
            top, streamed, refusal = await first_use(self)
            if self._undoes_temperature and top:  # the server may have been started otherwise
                self._undoes_temperature = await applies_temperature(self)
        self.context_window = await self.protocol.window(self)
        return Capabilities(
            context_window=self.context_window,
            top_logprobs=top,
            requested_logprobs=self.top_logprobs,
            streamed_logprobs=streamed and self.server.logprobs_mode != "processed",
            supports_schema=self.server.schema_field is not None,
            supports_stop=self.server.supports_stop,
            sampling=frozenset(self.server.sampling),
            raw_under_penalties=self.server.raw_under_penalties,
            device=self._device,
            template=template,
            logprobs_refusal=refusal,
        )

    async def _find_control(self, literals: set[str]) -> set[str]:
        """Those that are control tokens; asks the server once for all of them."""
        if self._tokenizer is not None:
            return literals & chat_templates.control_tokens(self._tokenizer)
        try:
            control = await self.protocol.control_literals(self, sorted(literals))
        except UnsuitableEndpointError:  # the route is hidden
            control = None
        if control is None:
            control = {literal for literal in literals if looks_like_control(literal)}
        return control
