"""Ingest over HTTP: every rule of it. Most heartbeats are plain, and take the short way past this."""

import json
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware

from services.ingest.access import Access, bearer
from services.ingest.gate import Gate, read_body, read_signal
from shared import bodies, docs, problems, tracing
from shared.connections import client_of
from shared.events import NAME_RULE, NAME_RULE_IN_WORDS, TRACEPARENT_HEADER, HeartbeatBody, sampled
from shared.head import HeadAsGet
from shared.origins import is_foreign
from shared.problems import Problem, documented
from shared.service import Health

BATCH_MAX = 10_000
BATCH_BODY_MAX = 2 * 1024 * 1024
"""Room for 10,000 names of 128 characters; everything else must fit bodies.BODY_MAX."""

NAMES_PER_REQUEST = 100
"""Names of a batch that count as one more request."""

METHODS = ("POST", "GET", "HEAD", "PUT")
OK = {"status": "ok"}


def build(gate: Gate, health: Health, access: Access) -> FastAPI:
    app = FastAPI(
        title="services registry: ingest",
        summary="Services say here that they are alive.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        routes=health.routes(),
        middleware=[Middleware(HeadAsGet)],
    )
    problems.install(app)
    docs.install(app)

    def check(request: Request) -> str:
        """The token that was given. Raises Problem 401, 403 or 429 if whoever asks may not."""
        if access.at_home and is_foreign(request.headers):
            raise Problem(403, "not from another site's page; with a token it may be")
        given = bearer(request.headers.get("authorization", ""))
        if not access.knows(given):
            given = request.query_params.get("token", "") or given
        access.enter(given, access.knows(given), client_of(request))
        return given

    async def take(request: Request, service_name: str, signal: str = "") -> dict[str, str]:
        check(request)
        headers = read_signal(signal) if signal else None
        if "%2f" in request.scope.get("raw_path", b"").decode("latin-1").lower():
            raise Problem(422, f"service_name: {NAME_RULE_IN_WORDS}")
        raw = await bodies.read(request)
        body = read_body(raw, request.headers.get("content-type", ""), request.query_params.get("every"))
        parent = sampled(request.headers.get(TRACEPARENT_HEADER))
        with tracing.span("heartbeat", parent, kind="SERVER", registry_service=service_name) as span:
            await gate.store(service_name, {**(headers or {}), **_followed(span)}, body)
        return OK

    async def heartbeat(request: Request, service_name: str) -> dict[str, str]:
        """The service is alive. Answers once the broker has stored it; registers an unknown service."""
        return await take(request, service_name)

    async def heartbeat_signal(request: Request, service_name: str, signal: str) -> dict[str, str]:
        """`fail`: it failed, and is down at once. `start`: a run has begun. An exit code: 0 is success."""
        return await take(request, service_name, signal)

    for method in METHODS:
        word = method.lower()
        app.add_api_route(
            "/heartbeat/{service_name}",
            heartbeat,
            methods=[method],
            operation_id=f"{word}_heartbeat",
            summary="I am alive",
            tags=["heartbeats"],
            responses=_RESPONSES,
            openapi_extra=_documentation(method),
        )
        app.add_api_route(
            "/heartbeat/{service_name}/{signal}",
            heartbeat_signal,
            methods=[method],
            operation_id=f"{word}_heartbeat_signal",
            summary="A run has begun, failed, or ended with an exit code",
            tags=["heartbeats"],
            responses=_RESPONSES,
            openapi_extra=_documentation(method),
        )

    @app.post(
        "/heartbeats",
        operation_id="post_heartbeats",
        summary="Many services are alive",
        tags=["heartbeats"],
        responses=_RESPONSES | {200: {"content": {"application/json": {"example": _BATCH_ANSWER}}}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["services"],
                            "properties": {
                                "services": {
                                    "type": "array",
                                    "items": {"type": "string"},
                                    "maxItems": BATCH_MAX,
                                }
                            },
                        },
                        "example": {"services": ["web", "worker.1"]},
                    }
                },
            }
        },
    )
    async def heartbeats(request: Request) -> dict[str, Any]:
        """Up to 10,000 names in one request; a bad name rejects itself alone."""
        given = check(request)
        names = _read_batch(await bodies.read(request, BATCH_BODY_MAX))
        access.charge(given, client_of(request), len(names) / NAMES_PER_REQUEST)
        parent = sampled(request.headers.get(TRACEPARENT_HEADER))
        with tracing.span("heartbeats", parent, kind="SERVER", registry_services=len(names)) as span:
            return await gate.store_all(names, _followed(span))

    @app.api_route("/heartbeat/{rest:path}", methods=list(METHODS), include_in_schema=False)
    async def bad_name(request: Request, rest: str) -> Response:
        check(request)
        raise Problem(422, f"service_name: {NAME_RULE_IN_WORDS}")

    return app


def _followed(span: tracing.Span) -> dict[str, str]:
    return {TRACEPARENT_HEADER: span.traceparent} if span.traceparent else {}


def _read_batch(raw: bytes) -> list[Any]:
    try:
        services = json.loads(raw)["services"]
    except (ValueError, KeyError, TypeError, RecursionError):
        services = None
    if not isinstance(services, list):
        raise Problem(422, 'body: JSON like {"services": ["a", "b"]} is needed')
    if len(services) > BATCH_MAX:
        raise Problem(422, f"services: at most {BATCH_MAX} names")
    return services


_BATCH_ANSWER = {
    "accepted": 1,
    "rejected": [{"service": "a b", "reason": f"service_name: {NAME_RULE_IN_WORDS}"}],
}

_RESPONSES: dict[int | str, dict[str, Any]] = documented(401, 413, 422, 429, 503) | {
    200: {"description": "Stored", "content": {"application/json": {"example": OK}}}
}


def _documentation(method: str) -> dict[str, Any]:
    """The parts of the OpenAPI operation that FastAPI cannot see in the handler."""
    query = (
        ("every", "The interval this service beats at, such as 5m"),
        ("token", "The ingest token, where a header cannot be set"),
    )
    name = {"type": "string", "pattern": NAME_RULE, "maxLength": 128}
    documentation: dict[str, Any] = {
        "parameters": [
            {"name": "service_name", "in": "path", "required": True, "schema": name, "example": "my-service"},
            *(
                {"name": key, "in": "query", "schema": {"type": "string"}, "description": text}
                for key, text in query
            ),
        ]
    }
    if method in ("POST", "PUT"):
        documentation["requestBody"] = {
            "content": {
                "application/json": {
                    "schema": HeartbeatBody.model_json_schema(),
                    "example": {"message": "backup done", "every": "5m"},
                },
                "text/plain": {"schema": {"type": "string"}, "example": "backup done"},
            }
        }
    return documentation
