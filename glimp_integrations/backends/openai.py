"""Any server with an OpenAI-compatible ``/v1/completions`` that exposes log-probabilities."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations import bridge
from glimp_integrations.backends import templates
from glimp_integrations.backends.base import (
    PATIENCE,
    Backend,
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
    Token,
)
from glimp_integrations.backends.explain import explained, public_url
from glimp_integrations.backends.flavours import FLAVOURS, GENERIC, Flavour
from glimp_integrations.backends.wire import counted, note_usage, tokens_of
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from glimp_integrations.backends.probes import EndpointReport

__all__ = ["OpenAIBackend"]

# Both flags that reasoning templates are switched by; Jinja ignores the one it does not know.
THINKING = {"enable_thinking": True, "thinking": True}
# Three attempts at this, with the pauses between them, stay under ten seconds.
CONNECT_SECONDS = 2.5
_RELEASE_SECONDS = 3.0


def _patience(*, at_most: float = math.inf) -> dict[str, Any]:
    from openai import Timeout

    seconds, retries = PATIENCE.get()
    seconds = at_most if seconds is None else min(seconds, at_most)
    timeout = Timeout(None if seconds == math.inf else seconds, connect=CONNECT_SECONDS)
    return {"timeout": timeout, "max_retries": retries}


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


class OpenAIBackend(Backend):
    """A model behind ``POST {base_url}/completions``.

    The prompt is raw text; conversations are rendered by the server where it offers that
    (llama.cpp, vLLM), else by ``tokenizer`` or ``chat_template``.

    Args:
        model: Name of the model on the server; ``None``: the only one it serves.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token; a plain string is wrapped at once.
        flavour: ``"auto"`` (asked from the server), ``"llama.cpp"``, ``"vllm"`` or ``"generic"``.
        top_logprobs: How many log-probabilities to ask for. A threshold belongs to its k.
        tokenizer: Hugging Face id or folder whose chat template to use (extra ``hf``).
        chat_template: Jinja source, or a function from messages to the prompt.
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
        if not _is_url(base_url):
            raise ConfigError(
                f"base_url is {public_url(base_url)!r}; expected http(s)://host:port/v1"
            )
        if flavour != "auto" and flavour not in FLAVOURS:
            raise ConfigError(
                f"unknown flavour {flavour!r}; known: auto, {', '.join(sorted(FLAVOURS))}"
            )
        if not 0 <= top_logprobs <= 1000:
            raise ConfigError(f"top_logprobs is {top_logprobs}; expected 0 to 1000")
        self.name = model or "the served model"
        self.url = public_url(base_url)
        self.top_logprobs = top_logprobs
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._flavour = None if flavour == "auto" else FLAVOURS[flavour]
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._template_kwargs = {**THINKING, **(template_kwargs or {})}
        self.context_window = context_window
        self._extra_body = dict(extra_body or {})
        self._verify = verify
        self._device = device
        self._client: AsyncOpenAI | None = None
        self._can: Capabilities | None = None
        self._lock: asyncio.Lock | None = None
        self._controls: dict[str, bool] = {}
        self._streams = 0
        self._slots = True

    # -- contract ----------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        if self._can is None:
            self._lock = self._lock or asyncio.Lock()
            async with self._lock:
                if self._can is None:
                    self._can = await self._discover()
        return self._can

    async def render(self, messages: Sequence[Message]) -> Rendered:
        await self.capabilities()
        if self._chat_template is not None:
            text = templates.render(self._chat_template, messages, self._template_kwargs)
            return Rendered(text, tokens=await self._count(text))
        if self._tokenizer is not None:
            return templates.render_with_tokenizer(self._tokenizer, messages, self._template_kwargs)
        try:
            if self.flavour.renders == "apply-template":
                return await self._render_llama_cpp(messages)
            if self.flavour.renders == "tokenize":
                return await self._render_vllm(messages)
        except UnsuitableEndpointError:
            pass  # the route is hidden: as if the server had none
        except BackendError as error:
            if "HTTP 400" in error.message:
                raise ConfigError(
                    f"the chat template of {self.name} refuses this conversation: {error.message}"
                ) from None
            raise
        raise ConfigError(
            f"{self.name} at {self.url} renders no conversations and no template was given: pass "
            "tokenizer='<Hugging Face id of the model>' or chat_template='<Jinja source>'"
        )

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        await self.capabilities()
        exact = self.flavour.token_per_chunk
        async with aclosing(self.completion(request, report)) as choices:
            before: int | None = None
            async for choice in choices:
                tokens = tokens_of(choice, k=request.logprobs, token_per_chunk=exact)
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

    async def aclose(self) -> None:
        bridge.not_at_exit(self.aclose)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check(self) -> EndpointReport:
        """Run the endpoint probes P0-P4 and P6 and explain what they found."""
        from glimp_integrations.backends.probes import check

        return await check(self)

    # -- used by the probes too --------------------------------------------------------------

    @property
    def flavour(self) -> Flavour:
        """The server's kind; generic until it was asked."""
        return self._flavour or GENERIC

    async def completion(
        self, request: Request, report: Report, **fields: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields ``choices[0]`` of every chunk."""
        client = await self._connected()
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": dict(self.flavour.stream_options),
            **self.flavour.body,
            **self._extra_body,
            **(self.flavour.distribution_body if request.distribution_only else {}),
            **fields,
        }
        if request.logprobs:
            body["logprobs"] = request.logprobs
        if request.seed is not None:
            body["seed"] = request.seed
        self._streams += 1
        try:
            with self._explained():
                async with aclosing(self._chunks(client, body, request, report)) as choices:
                    async for choice in choices:
                        yield choice
        finally:
            self._streams -= 1

    async def get(self, route: str, **options: Any) -> Any:
        """GET a route beside ``/v1`` (``/props``, ``/slots``)."""
        client = (await self._connected()).with_options(**{**_patience(), **options})
        with self._explained():
            return await client.get(self._root + route, cast_to=object)

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """POST to a route beside ``/v1`` (``/tokenize``)."""
        client = (await self._connected()).with_options(**_patience())
        with self._explained():
            return await client.post(self._root + route, cast_to=object, body=dict(body))

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

    async def models(self) -> list[dict[str, Any]] | None:
        """What ``GET /v1/models`` lists; ``None`` where the route does not exist."""
        # A list of names is no reason to wait as long as for a long answer.
        client = (await self._connected()).with_options(**_patience(at_most=5.0))
        try:
            with self._explained():
                answer: Any = await client.get("/models", cast_to=object)
        except UnsuitableEndpointError:
            return None
        return list(answer.get("data") or []) if isinstance(answer, dict) else None

    # -- inside ------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Hook for backends that start their own server."""

    @property
    def _root(self) -> str:
        return self._base_url.removesuffix("/v1")

    def _explained(self) -> AbstractContextManager[None]:
        secret = self._key.get_secret_value() if self._key is not None else None
        return explained(self.name, self.url or "", secret)

    async def _connected(self) -> AsyncOpenAI:
        await self._start()
        if self._client is None:
            from openai import AsyncOpenAI, Timeout

            self._client = AsyncOpenAI(
                base_url=self._base_url,
                # The client insists on a key; servers without one ignore it.
                api_key=self._key.get_secret_value() if self._key is not None else "EMPTY",
                timeout=Timeout(120.0, connect=CONNECT_SECONDS),
                max_retries=2,
            )
            bridge.at_exit(self.aclose)
        return self._client

    async def _chunks(
        self, client: AsyncOpenAI, body: dict[str, Any], request: Request, report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        from openai import AsyncStream, Timeout

        report.retried = True  # by the client, as often as allowed
        stream: Any = await client.with_options(max_retries=request.max_retries).post(
            "/completions",
            cast_to=object,
            body=body,
            options={"timeout": Timeout(request.timeout, connect=CONNECT_SECONDS)},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        report.retried = False
        finish: str | None = None
        try:
            async with stream:
                async for chunk in stream:
                    note_usage(chunk, report)
                    for choice in chunk.get("choices") or ():
                        finish = choice.get("finish_reason") or finish
                        yield choice
        finally:
            # The client's stream and its generator hold each other: closed here, on this loop,
            # and not by a garbage collection that may come when the loop is gone.
            generator = getattr(stream, "_iterator", None)
            if isinstance(generator, AsyncGeneratorType):
                await generator.aclose()
        self._note_end(finish, request, report)

    def _note_end(self, finish: str | None, request: Request, report: Report) -> None:
        if finish == "stop":
            report.ended = "eos"
        elif finish == "length":
            told = report.completion_tokens
            report.ended = "length" if told is None or told >= request.max_tokens else "context"
        else:
            raise BackendError(
                f"{self.name} at {self.url} ended its stream "
                + ("before the end" if finish is None else f"with {finish!r}"),
                model=self.name,
                url=self.url,
                retryable=finish is None,
            )

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

    async def _render_llama_cpp(self, messages: Sequence[Message]) -> Rendered:
        body = {
            "messages": [dict(m) for m in messages],
            "chat_template_kwargs": self._template_kwargs,
        }
        text = (await self.post("/apply-template", body))["prompt"]
        return Rendered(text, tokens=await self._count(text))

    async def _render_vllm(self, messages: Sequence[Message]) -> Rendered:
        body = {
            "model": self._model,
            "messages": [dict(m) for m in messages],
            "add_generation_prompt": True,
            "chat_template_kwargs": self._template_kwargs,
        }
        tokens = (await self.post("/tokenize", body))["tokens"]
        text = await self.post("/detokenize", {"model": self._model, "tokens": tokens})
        return Rendered(text["prompt"], tokens=len(tokens))

    async def _count(self, text: str) -> int | None:
        """Tokens of a prompt, where the server counts them."""
        try:
            if self.flavour.renders == "apply-template":
                answer = await self.post("/tokenize", {"content": text, "add_special": True})
            elif self.flavour.renders == "tokenize":
                body = {"model": self._model, "prompt": text, "add_special_tokens": False}
                answer = await self.post("/tokenize", body)
            else:
                return None
        except UnsuitableEndpointError:  # the route is hidden
            return None
        return len(answer["tokens"])

    async def _ask_control(self, literal: str) -> bool:
        if self._tokenizer is not None:
            return templates.is_control(self._tokenizer, literal)
        if self.flavour.renders == "apply-template":
            body = {"content": literal, "add_special": False}
            special = await self.post("/tokenize", {**body, "parse_special": True})
            plain = await self.post("/tokenize", {**body, "parse_special": False})
            return bool(special["tokens"] != plain["tokens"])
        if self.flavour.renders == "tokenize":
            answer = await self.post(
                "/tokenize",
                {"model": self._model, "prompt": literal, "add_special_tokens": False},
            )
            # One token for a whole literal: a control token, or so common that a joiner in it
            # does no harm.
            return len(answer["tokens"]) == 1
        return await super().is_control(literal)
