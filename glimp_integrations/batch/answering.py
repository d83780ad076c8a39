"""One request of a batch: from its body to the line of its result.

Format: OpenAI, API reference, "The request output object" of the Batch API. A request that a server
would have answered with an error status has that status and body in ``response``; ``error`` is for
what has no status, and is always null here.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass

from glimp_integrations.batch.requests_file import BatchRequest
from glimp_integrations.errors import GlimpError
from glimp_integrations.openai_api.allowed import DEFAULT_ALLOWED, Allowed
from glimp_integrations.openai_api.errors import ApiError, api_error, internal_error, invalid
from glimp_integrations.openai_api.replies import ReplyHead, completion
from glimp_integrations.openai_api.requests import ChatRequest
from glimp_integrations.router import GlimpRouter

__all__ = ["Answering", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        line: Its result, with a line feed.
        status: HTTP status; 200: a reply.
        message: What failed; empty: nothing.
    """

    line: bytes
    status: int
    message: str = ""


class Answering:
    """Answers requests.

    Args:
        router: Answers.
        model_name: The name of the pair in replies.
    """

    def __init__(self, router: GlimpRouter, model_name: str) -> None:
        self._router = router
        self._model_name = model_name
        self._allowed = Allowed(DEFAULT_ALLOWED, router.settings)

    async def __call__(self, request: BatchRequest) -> Outcome:
        """The result of a request. Cancelling it stops both models."""
        try:
            return Outcome(_line(request, 200, await self._reply(request.body)), 200)
        except GlimpError as error:
            failure = api_error(error)
        except ApiError as error:
            failure = error
        except Exception as error:
            failure = internal_error(error, f"{request.custom_id!a} was answered")
        body = json.dumps(failure.body, ensure_ascii=False).encode()
        return Outcome(_line(request, failure.status, body), failure.status, failure.message)

    async def _reply(self, body: bytes) -> bytes:
        chat = ChatRequest.read(body, sys.maxsize)
        if chat.stream:
            raise invalid("stream is not possible in a batch: leave it out", "stream")
        changes = chat.changes(self._allowed)
        trace = chat.wants_trace
        result = await self._router.arun(chat.conversation, chat.output(), **changes)
        return completion(ReplyHead(self._model_name), result, trace=trace)


def _line(request: BatchRequest, status: int, body: bytes) -> bytes:
    head = {"id": request.id, "custom_id": request.custom_id}
    response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}"}
    # The body is JSON already, which may be long.
    return b'%s, "response": %s, "body": %s}, "error": null}\n' % (
        json.dumps(head, ensure_ascii=False).encode().removesuffix(b"}"),
        json.dumps(response).encode().removesuffix(b"}"),
        body,
    )
