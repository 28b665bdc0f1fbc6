"""The HTTP front: the API's routes, the dashboard's, and what holds for all of them."""

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.dashboard import pages
from services.api.http import services
from services.api.http.services import Parts
from services.api.projections.store import DatabaseUnavailable
from shared.http import docs, problems
from shared.http.head import HeadAsGet
from shared.http.origins import SameOrigin
from shared.http.problems import Problem
from shared.messaging.errors import BrokerError

_FOR_EVER = "public, max-age=31536000, immutable"
STATIC = Path(__file__).parent.parent / "dashboard" / "static"


def build(parts: Parts) -> FastAPI:
    app = FastAPI(
        title="services registry",
        summary="Which services are alive, and which are not.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        routes=parts.health.routes(),
        middleware=[
            Middleware(HeadAsGet),
            Middleware(_Headers),
            Middleware(SameOrigin, public_url=parts.look.public_url),
            Middleware(GZipMiddleware, minimum_size=1000),
        ],
    )
    for router in services.routers(parts):
        app.include_router(router)
    answer = pages.install(app, parts)
    problems.install(app, answer)
    _answer_outages(app, answer)
    docs.install(app)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class _Headers:
    """Nothing is cached unless its route says so, and nothing is taken for what it is not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                unchanging = scope["path"].startswith("/static/") and scope["query_string"]
                headers.setdefault("Cache-Control", _FOR_EVER if unchanging else "no-store")
                headers.setdefault("X-Content-Type-Options", "nosniff")
                # Not no-referrer: with that, browsers send `Origin: null` with forms of our own.
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        await self._app(scope, receive, with_headers)


def _answer_outages(app: FastAPI, answer: problems.Answer) -> None:
    async def database_away(request: Request, error: Exception) -> Response:
        detail = "the database cannot be reached; a change that was sent may be stored all the same"
        return answer(request, Problem(503, detail, retry_after=2))

    async def broker_away(request: Request, error: Exception) -> Response:
        return answer(request, Problem(503, f"not known to be stored: {error}", retry_after=2))

    app.add_exception_handler(DatabaseUnavailable, database_away)
    app.add_exception_handler(BrokerError, broker_away)
