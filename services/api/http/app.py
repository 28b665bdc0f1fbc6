"""The HTTP front: the API's routes, the dashboard's, and what holds for all of them."""

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.context import ApiContext, context_of
from services.api.dashboard import forms, login, pages
from services.api.dashboard.rendering import problem_page
from services.api.healthchecks import app as healthchecks
from services.api.http import (
    audit,
    badges,
    channels,
    configuration,
    events,
    incidents,
    maintenance,
    replays,
    routes,
    runs,
    schedules,
    services,
)
from services.api.projections.store import DatabaseUnavailable
from shared.contracts.wanted import Wanted
from shared.http import docs, problems
from shared.http.origins import SameOrigin
from shared.http.problems import Problem
from shared.http.server import HeadAsGet
from shared.http.siblings import exec_py, sibling_url
from shared.messaging.errors import BrokerError

_TITLE = "services registry"
_FOR_EVER = "public, max-age=31536000, immutable"
STATIC = Path(__file__).parent.parent / "dashboard" / "static"


def build(context: ApiContext) -> FastAPI:
    app = FastAPI(
        title=_TITLE,
        summary="Which services are alive, and which are not.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        routes=[
            *context.health.routes(),
            *docs.openapi(_TITLE),
            exec_py(context.settings),
            *(Route(path, _not_here, methods=_ANY) for path in _HEARTBEATS),
        ],
        middleware=[
            Middleware(HeadAsGet),
            Middleware(_Headers),
            Middleware(SameOrigin, public_url=context.settings.public_url),
            Middleware(GZipMiddleware, minimum_size=1000),
        ],
    )
    app.state.context = context
    for module in (services, incidents, maintenance, routes, channels):
        app.include_router(module.writes)
    for module in (schedules, routes):
        app.include_router(module.asks)
    app.include_router(configuration.plans)
    app.include_router(replays.asks)
    app.include_router(configuration.public)
    for module in (
        services,
        incidents,
        schedules,
        runs,
        events,
        audit,
        channels,
        maintenance,
        routes,
        configuration,
        badges,
    ):
        app.include_router(module.reads)
    for router in (pages.router, forms.router, login.router, pages.public):
        app.include_router(router, include_in_schema=False)
    healthchecks.mount(app, context)
    problems.install(app, problem_page, Wanted.model_fields)
    app.add_exception_handler(DatabaseUnavailable, _database_away)
    app.add_exception_handler(BrokerError, _broker_away)
    app.add_exception_handler(login.LoginNeeded, login.ask_to_log_in)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


_HEARTBEATS = ("/heartbeats", "/heartbeat", "/heartbeat/{rest:path}")
_ANY = ("GET", "HEAD", "POST", "PUT")


async def _not_here(request: Request) -> Response:
    """No redirect: `curl -f` does not follow one, and says nothing."""
    settings = context_of(request).settings
    url = sibling_url(request, settings, settings.api_port, settings.ingest_port)
    raise Problem(404, f"heartbeats are taken at {url}", also={"ingest": url})


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


async def _database_away(request: Request, error: Exception) -> Response:
    detail = "the database cannot be reached; a change that was sent may be stored all the same"
    return problem_page(request, Problem(503, detail, retry_after=2))


async def _broker_away(request: Request, error: Exception) -> Response:
    return problem_page(request, Problem(503, f"not known to be stored: {error}", retry_after=2))
