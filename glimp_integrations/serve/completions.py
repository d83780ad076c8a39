"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from glimp_integrations.openai_api.allowed import Allowed
from glimp_integrations.openai_api.errors import ApiError
from glimp_integrations.openai_api.replies import Chunks, ReplyHead, completion, reply_headers
from glimp_integrations.openai_api.requests import ChatRequest
from glimp_integrations.router import result_of
from glimp_integrations.serve.access_log import details
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.conversations import Asked, Conversations
from glimp_integrations.serve.keys import Keys
from glimp_integrations.serve.streaming import Stream, while_connected

__all__ = ["Completions", "check_model"]


class Completions:
    """The route.

    Args:
        config: Limits of requests, and the model's name.
        keys: Who may ask.
        allowed: What requests may change.
        conversations: Where they are answered.
    """

    def __init__(
        self, config: ServeConfig, keys: Keys, allowed: Allowed, conversations: Conversations
    ) -> None:
        self._config, self._keys = config, keys
        self._allowed, self._conversations = allowed, conversations

    async def __call__(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            ApiError: It is refused, or failed.
            ClientGoneError: Nobody waits for the answer.
        """
        client = self._keys.client(request.headers.get("authorization"))
        log = details(request.scope)
        if self._keys.required:
            log["key"] = client.name
        client.admit()
        body = await _body(request, self._config.max_body_bytes)
        chat = ChatRequest.read(body, self._config.max_messages)
        check_model(self._config, chat.model)
        asked = Asked(client, chat.conversation, chat.output(), chat.changes(self._allowed))
        head = ReplyHead(self._config.model_name)
        log.update(model=head.model, stream=bool(chat.stream), reply=head.id)
        reply = self._streamed if chat.stream else self._whole
        return await reply(request, chat, asked, head)

    async def _whole(
        self, request: Request, chat: ChatRequest, asked: Asked, head: ReplyHead
    ) -> Response:
        trace = chat.wants_trace
        try:
            events = self._conversations.events(asked)
            result = await while_connected(request, result_of(events))
        finally:
            details(request.scope).update(_taken(asked))
        return Response(
            completion(head, result, trace=trace),
            media_type="application/json",
            headers=reply_headers(result),
        )

    async def _streamed(
        self, request: Request, chat: ChatRequest, asked: Asked, head: ReplyHead
    ) -> Response:
        log = details(request.scope)
        chunks = Chunks(
            head, usage=chat.include_usage, trace=chat.wants_trace, steps=chat.wants_steps
        )
        stream = Stream(
            partial(self._conversations.events, asked),
            chunks,
            keepalive=self._config.keepalive_seconds,
            failed=lambda error: log.update(error=error.code),
        )
        try:
            await while_connected(request, stream.begin())
        except BaseException:
            await stream.aclose()
            log.update(_taken(asked))
            raise
        return StreamingResponse(
            _logged(stream.body(), asked, log),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


def check_model(config: ServeConfig, name: str) -> None:
    """Refuse another model than the one that is served.

    Raises:
        ApiError: It is another (404).
    """
    if name != config.model_name:
        raise ApiError(
            404,
            f"the model {name[:100]!r} is not served here; the model is {config.model_name!r}",
            code="model_not_found",
            param="model",
        )


async def _body(request: Request, most: int) -> bytes:
    """The body, if it is JSON and not too large.

    Raises:
        ApiError: It is not (413, 415).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Any page of the web may send other types to this machine without asking first.
        raise ApiError(
            415, "send the header 'Content-Type: application/json'", code="unsupported_media_type"
        )
    too_large = ApiError(
        413,
        f"the request is larger than {most} bytes, the most that this server takes",
        code="request_too_large",
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _logged(
    body: AsyncGenerator[bytes, None], asked: Asked, log: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    try:
        async for part in body:
            yield part
    finally:
        await body.aclose()
        log.update(_taken(asked))


def _taken(asked: Asked) -> dict[str, Any]:
    """What a conversation took, for the log: kept tokens, and those of all requests."""
    result = asked.result
    if result is None:
        return {}
    small, large = result.usage.small, result.usage.large
    return {
        "small_tokens": result.trace.tokens("small"),
        "large_tokens": result.trace.tokens("large"),
        "small_input": small.input_tokens,
        "small_output": small.output_tokens,
        "large_input": large.input_tokens,
        "large_output": large.output_tokens,
        "share": round(result.trace.large_share, 4),
        "cost": result.trace.cost,
        "steps": len(result.trace.steps),
        "stop": result.trace.answer_stop or result.trace.stop_reason,
    }
