"""What is answered where a request was refused, failed, or has nobody who waits for it."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from glimp_integrations.openai_api.errors import ApiError, internal_error
from glimp_integrations.serve.access_log import details

__all__ = ["api_error_response", "client_gone", "http_error_response", "unexpected"]


async def api_error_response(request: Request, error: Exception) -> Response:
    """A refused or failed request."""
    assert isinstance(error, ApiError)
    details(request.scope)["error"] = error.code
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def http_error_response(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    routes = "/v1/chat/completions, /v1/models, /health, /ready, /metrics"
    known = ApiError(
        error.status_code,
        f"{error.detail}: this server has {routes}",
        code="method_not_allowed" if error.status_code == 405 else "not_found",
    )
    response = await api_error_response(request, known)
    response.headers.update(error.headers or {})
    return response


async def client_gone(request: Request, _: Exception) -> Response:
    """The client closed its connection: nobody reads this, but the log has it."""
    details(request.scope)["error"] = "client_gone"
    return Response(status_code=499)


def unexpected(scope: Scope, error: Exception) -> Response:
    """A fault of this package. The log gets its place; its text may quote a conversation."""
    failure = internal_error(error, "a request was answered")
    details(scope)["error"] = failure.code
    return JSONResponse(failure.body, status_code=failure.status, headers=failure.headers)
