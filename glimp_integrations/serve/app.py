"""The application: routes, who may use them, and what they answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from glimp_integrations._version import __version__
from glimp_integrations.openai_api.errors import ApiError
from glimp_integrations.openai_api.replies import model_card, models_list
from glimp_integrations.router import GlimpRouter
from glimp_integrations.serve.access_log import AccessLog, writer
from glimp_integrations.serve.completions import Completions, check_model
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.conversations import Conversations
from glimp_integrations.serve.failures import (
    api_error_response,
    client_gone,
    http_error_response,
    unexpected,
)
from glimp_integrations.serve.limits import Places
from glimp_integrations.serve.metrics import LastHour, Metrics
from glimp_integrations.serve.readiness import Readiness
from glimp_integrations.serve.streaming import ClientGoneError
from glimp_integrations.settings import RoutingSettings

__all__ = ["Application", "create_app"]

PAGES = Path(__file__).parent / "pages"
_PAGE_HEADERS = {
    # Scripts and styles of this server only, and nothing is sent anywhere else.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_CHAT = "/v1/chat/completions"
_LOCAL_HOSTS = ["localhost", "127.0.0.1", "::1", "[::1]"]


class Application:
    """A routed pair behind OpenAI's API.

    Args:
        config: How it is served.
        router: Answers; ``None``: one is made of ``config.routing``, and closed at the end.

    Attributes:
        asgi: The ASGI application.

    Raises:
        ConfigError: The configuration is not possible.
    """

    def __init__(self, config: ServeConfig, router: GlimpRouter | None = None) -> None:
        self.config = config
        self._keys = config.make_keys()
        self._owned = router is None
        if router is None:
            router = GlimpRouter(settings=config.settings())
            router.make_room(config.max_running)
        self.router = router
        self._allowed = config.allowed(self.router.settings)
        places = Places(config.max_running, config.max_waiting, config.queue_seconds)
        self._metrics, self._last_hour = Metrics(places), LastHour()
        self.conversations = Conversations(self.router, places, self._metrics, self._last_hour)
        self._readiness = Readiness(self.router, self.conversations)
        self._created = int(time.time())
        self.asgi = self._starlette()

    def _starlette(self) -> Starlette:
        answer = Completions(self.config, self._keys, self._allowed, self.conversations)

        async def completions(request: Request) -> Response:
            return await answer(request)

        routes: list[tuple[str, Callable[..., Any], str]] = [
            (_CHAT, completions, "POST"),
            ("/v1/models", self._models, "GET"),
            ("/v1/models/{name:path}", self._model, "GET"),
            ("/health", self._health, "GET"),
            ("/ready", self._ready, "GET"),
            ("/metrics", self._show_metrics, "GET"),
            ("/status", self._status, "GET"),
            ("/", self._page("index.html"), "GET"),
            ("/playground.js", self._page("playground.js"), "GET"),
            ("/style.css", self._page("style.css"), "GET"),
        ]
        shown = frozenset(path for path, _, _ in routes)
        middleware = [
            Middleware(
                AccessLog,
                write=writer(self.config.access_log),
                paths=shown,
                done=self._count,
                unexpected=unexpected,
            )
        ]
        if self.config.is_local:
            # A page of the web whose name is made to lead here (DNS rebinding) is not let in.
            middleware.append(
                Middleware(TrustedHostMiddleware, allowed_hosts=_LOCAL_HOSTS, www_redirect=False)
            )
        return Starlette(
            routes=[Route(path, handler, methods=[method]) for path, handler, method in routes],
            middleware=middleware,
            exception_handlers={
                ApiError: api_error_response,
                HTTPException: http_error_response,
                ClientGoneError: client_gone,
                ClientDisconnect: client_gone,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self._readiness.aclose()
        if self._owned:
            await self.router.aclose()

    # -- the API -------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        self._keys.client(request.headers.get("authorization"))
        return JSONResponse(models_list(self.config.model_name, self._created))

    async def _model(self, request: Request) -> Response:
        self._keys.client(request.headers.get("authorization"))
        check_model(self.config, request.path_params["name"])
        return JSONResponse(model_card(self.config.model_name, self._created))

    # -- for operators -------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        problem = await self._readiness.problem()
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": problem}, status_code=503)

    async def _show_metrics(self, request: Request) -> Response:
        self._operator(request)
        return Response(self._metrics.text(), media_type=Metrics.content_type)

    async def _status(self, request: Request) -> Response:
        self._operator(request)
        places, settings = self.conversations.places, self.router.settings
        return JSONResponse(
            {
                "version": __version__,
                "model": self.config.model_name,
                "small": self.router.small.name,
                "large": self.router.large.name,
                "policy": _policy(settings),
                "settings": self._allowed.names,
                "running": places.running,
                "waiting": places.waiting,
                "last_hour": self._last_hour.data(),
            }
        )

    def _operator(self, request: Request) -> None:
        if not self.config.open_metrics:
            self._keys.client(request.headers.get("authorization"))

    @staticmethod
    def _page(name: str) -> Callable[[Request], Any]:
        async def page(_: Request) -> Response:
            return FileResponse(PAGES / name, headers=_PAGE_HEADERS)

        return page

    def _count(self, line: dict[str, Any]) -> None:
        """Count a request that is over."""
        if line["path"] != _CHAT or line["method"] != "POST":
            return
        code = line.get("error") or ("client_gone" if line["status"] == 499 else None)
        self._metrics.request(line["status"], code)
        if code is not None:
            self._last_hour.failed()


def create_app(config: ServeConfig | None = None, router: GlimpRouter | None = None) -> Starlette:
    """An ASGI application that any server can run.

    Args:
        config: How it is served; ``None``: what the environment says.
        router: Answers, and stays open; ``None``: one is made of ``config.routing``.

    Raises:
        ConfigError: The configuration is not possible.
    """
    return Application(config or ServeConfig.load(), router).asgi


def _policy(settings: RoutingSettings) -> str:
    """Who decides, in words."""
    if settings.policy is not None:
        return f"policy {getattr(settings.policy, 'name', type(settings.policy).__name__)}"
    if settings.large_share is not None:
        return f"large_share={float(settings.large_share):g}"
    return f"threshold={float(settings.threshold):g}"
