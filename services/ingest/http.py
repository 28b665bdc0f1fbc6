"""Ingest over HTTP: every rule of it. Most heartbeats are plain, and take the short way past this."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware import Middleware
from starlette.types import Scope

from services.ingest.admission import REFUSED, HeartbeatStore, KnownNames
from services.ingest.auth import IngestAuth
from services.ingest.content import (
    HeartbeatContent,
    bad_address,
    bad_name,
    finished,
    mended_name,
    read_content,
    read_signal,
    tidy,
)
from services.ingest.ended_runs import EndedRuns
from services.ingest.middleware import Throttled
from services.ingest.protocols import PROTOCOLS
from services.ingest.protocols.protocol import Address, Asked, Beat, Protocol, not_found, openapi_of
from services.ingest.settings import IngestSettings
from shared.contracts import events
from shared.contracts.events import HeartbeatBody, Signal
from shared.contracts.heartbeats import FIRST_KEPT, LAST_KEPT, quoted
from shared.http import bodies, docs, problems
from shared.http.origins import is_foreign
from shared.http.problems import Problem, documented
from shared.http.protocol import client_of, stranger_of
from shared.http.server import HeadAsGet, Health
from shared.http.siblings import exec_py, sibling_url
from shared.telemetry import tracing
from shared.telemetry.visible import visible

BATCH_MAX = 10_000
BATCH_BODY_MAX = 2 * 1024 * 1024
"""Room for 10,000 names of 128 characters; everything else must fit bodies.BODY_MAX."""

NAMES_PER_REQUEST = 100
"""Names of a batch that count as one more request."""

_TITLE = "services registry: ingest"
METHODS = ("POST", "GET", "HEAD", "PUT")
OK = {"status": "ok"}
WARNINGS_SHOWN = 1000
"""Bytes of warnings in a header."""


def build(store: HeartbeatStore, health: Health, auth: IngestAuth, settings: IngestSettings) -> FastAPI:
    def refused(request: Request, problem: Problem) -> Response:
        if problem.status == 404:  # of a route, for a heartbeat is never answered so
            url = sibling_url(request, settings, settings.ingest_port, settings.api_port)
            problem = Problem(404, f"ingest takes heartbeats only; the API is at {url}", also={"api": url})
        return problems.response(problem)

    app = FastAPI(
        title=_TITLE,
        summary="Services say here that they are alive.",
        version="1",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        routes=[*health.routes(), *docs.openapi(_TITLE), exec_py(settings)],
        middleware=[Middleware(Throttled), Middleware(HeadAsGet)],
    )
    app.state.store, app.state.auth, app.state.ended_runs = store, auth, EndedRuns()
    app.include_router(router)
    app.include_router(_translating())
    problems.install(app, refused)
    return app


def _check(request: Request) -> str:
    """The token that was given. Raises Problem 401, 403 or 429 if this client may not send anything."""
    auth: IngestAuth = request.app.state.auth
    if auth.loopback_only and is_foreign(request.headers):
        raise Problem(403, "not from another site's page; with a token it may be")
    given = auth.given(request)
    auth.enter(given, auth.knows(given), client_of(request))
    return given


def recognises(request: Request, store: HeartbeatStore, auth: IngestAuth) -> bool:
    """Whether a right token is shown, or a ping key, wherever its protocol has it."""
    if auth.knows(auth.given(request)):
        return True
    protocol, parts = _protocol_of(request.scope)
    if protocol is None:
        return False
    try:
        address = protocol.read_address(_asked(request, parts, store, auth))
    except Problem:
        return False
    return _is_good(address, auth)


def _is_good(address: Address, auth: IngestAuth) -> bool:
    return bool(address.service) or (not address.needs_key and auth.knows(address.secret or ""))


def stored(answer: dict[str, Any]) -> Response:
    return JSONResponse(answer, headers={"cache-control": "no-store"})


# --- what the documentation says


class HeartbeatAnswer(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {**OK, "warnings": ["every: 'whenever' is not a duration such as 30s, 15m, 1h"]}
        }
    )

    status: Literal["ok"]
    warnings: list[str] = Field(default=[], description="What could not be used as it was meant.")


class Batch(BaseModel):
    services: list[str] = Field(max_length=BATCH_MAX, examples=[["web", "worker.1"]])


class Rejected(BaseModel):
    service: str
    reason: str = Field(examples=[f"service_name: {events.NAME_RULE_IN_WORDS}"])


class BatchStored(BaseModel):
    accepted: int
    rejected: list[Rejected]
    warnings: list[str] = []


ServiceName = Annotated[
    str,
    Path(
        json_schema_extra={"pattern": events.NAME_RULE, "maxLength": events.NAME_MAX}, examples=["my-service"]
    ),
]
# FastAPI cannot see these: they are read by hand, so that no fault in them costs the heartbeat.
_READ_BY_HAND: dict[str, Any] = json.loads(pathlib.Path(__file__).with_name("openapi.json").read_bytes())
_BODY = _READ_BY_HAND["requestBody"]
_BODY["content"]["application/json"]["schema"] = events.HeartbeatBody.model_json_schema()
_BODY["description"] = _BODY["description"].format(
    kept=FIRST_KEPT + LAST_KEPT, first=FIRST_KEPT, last=LAST_KEPT
)


# --- the routes

_STORED: dict[int | str, dict[str, Any]] = {200: {"model": HeartbeatAnswer, "description": "HeartbeatAnswer"}}

router = APIRouter(tags=["heartbeats"], responses=documented(401, 413, 422, 429, 503))


async def heartbeat(request: Request, service_name: ServiceName) -> Response:
    """The service is alive. Answers once the broker has stored it; registers an unknown service. What it
    says never costs the heartbeat: what cannot be used as it is meant is said in `warnings`."""
    return await _store(request, service_name)


async def heartbeat_signal(request: Request, service_name: ServiceName, signal: str) -> Response:
    """`fail`: it failed, and is down at once. `start`: a run has begun. `log`: kept, and no sign of life.
    An exit code: 0 is success, any other number a failure, and so is a word in capitals, such as KILL."""
    return await _store(request, service_name, signal)


_ENDS = "A run has begun, failed, or ended with an exit code"
_ROUTES: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("/heartbeat/{service_name}", heartbeat, "I am alive"),
    ("/heartbeat/{service_name}/{signal}", heartbeat_signal, _ENDS),
)
for _method in METHODS:
    _documented = ("parameters", "requestBody") if _method in ("POST", "PUT") else ("parameters",)
    for _path, _handler, _summary in _ROUTES:
        router.add_api_route(
            _path,
            _handler,
            methods=[_method],
            operation_id=f"{_method.lower()}_{_handler.__name__}",
            summary=_summary,
            responses=_STORED,
            openapi_extra={key: _READ_BY_HAND[key] for key in _documented},
        )


async def _store(request: Request, service_name: str, signal: str = "") -> Response:
    _check(request)
    if b"%2f" in request.scope.get("raw_path", b"").lower():
        raise bad_name("/")
    kind = request.headers.get("content-type", "")
    # The body itself is let go of before the broker is waited for.
    took = request.headers.get(events.DURATION_HEADER, "")
    content = await bodies.parsed(
        lambda raw: read_content(signal, raw, kind, request.query_params, took), request
    )
    await _store_content(request, service_name.rstrip(" "), content)
    return stored({**OK, "warnings": content.warnings} if content.warnings else OK)


async def _store_content(
    request: Request, name: str, content: HeartbeatContent, by_key: bool = False
) -> None:
    parent = events.sampled(request.headers.get(events.TRACEPARENT_HEADER))
    with tracing.span("heartbeat", parent, {"registry.service": name}, kind="SERVER") as span:
        headers = {**content.headers, **tracing.headers_of(span)}
        store: HeartbeatStore = request.app.state.store
        await store.store(name, headers, content.payload, stranger_of(request), by_key)


@router.post(
    "/heartbeats",
    operation_id="post_heartbeats",
    summary="Many services are alive",
    responses={200: {"model": BatchStored}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": Batch.model_json_schema()}},
        }
    },
)
async def heartbeats(request: Request) -> Response:
    """Up to 10,000 names in one request; a bad name rejects itself alone."""
    given = _check(request)
    names, refused, warnings = await bodies.parsed(_read_batch, request, BATCH_BODY_MAX)
    REFUSED.inc(len(refused))
    auth: IngestAuth = request.app.state.auth
    auth.charge(given, client_of(request), (len(names) + len(refused)) / NAMES_PER_REQUEST)
    parent = events.sampled(request.headers.get(events.TRACEPARENT_HEADER))
    with tracing.span("heartbeats", parent, {"registry.services": len(names)}, kind="SERVER") as span:
        store: HeartbeatStore = request.app.state.store
        answer = await store.store_all(names, tracing.headers_of(span), stranger_of(request))
    answer["rejected"] = refused + answer["rejected"]
    return stored({**answer, "warnings": warnings} if warnings else answer)


# --- other systems' protocols


def _protocol_of(scope: Scope) -> tuple[Protocol | None, tuple[str, ...]]:
    """Whose address it is, and its parts: an escaped slash separates none."""
    path = tidy(scope["raw_path"].decode("latin-1"))
    for protocol in PROTOCOLS:
        if begin := protocol.addresses.match(path):
            return protocol, tuple(map(unquote, path[begin.end() :].split("/")))
    return None, ()


def _asked(request: Request, parts: tuple[str, ...], store: HeartbeatStore, auth: IngestAuth) -> Asked:
    return Asked(
        parts,
        request.query_params,
        request.headers,
        store.names.of_key,
        auth.lets_in,
        request.scope.get("is_cut", False),
    )


async def translated(request: Request) -> Response:
    """By one of these protocols, if it is an address of one."""
    protocol, parts = _protocol_of(request.scope)
    if protocol is None:
        return of_secret_address(problems.response(Problem(404, "Not Found")))
    try:
        if protocol.methods and request.method not in protocol.methods:
            raise Problem(405, "Method Not Allowed", headers={"Allow": ", ".join(protocol.methods)})
        response = await _translate(protocol, parts, request)
    except Problem as problem:
        response = protocol.refuse(problem)
    return of_secret_address(response)


def _translating() -> APIRouter:
    """The addresses that are documented, and all others, for anything may be escaped in one."""
    routes = APIRouter(default_response_class=Response)
    for protocol in PROTOCOLS:
        answers: dict[int | str, dict[str, Any]] = {
            status: {"description": meaning} for status, meaning in protocol.answers.items()
        }
        for address in protocol.documented:
            for method in address.methods:
                routes.add_api_route(
                    address.path,
                    translated,
                    methods=[method],
                    operation_id=re.sub(r"\W+", "_", f"{method.lower()}_{address.path}").strip("_"),
                    tags=[protocol.name],
                    summary=address.summary,
                    status_code=min(protocol.answers),
                    responses=documented(401, 413, 429, 503) | answers,
                    openapi_extra=openapi_of(address),
                )
    for path in ("/ping", "/ping/{rest:path}", "/api", "/api/{rest:path}"):
        routes.add_route(path, translated, methods=[], include_in_schema=False)  # any method
    return routes


def of_secret_address(response: Response) -> Response:
    """The same, and no browser keeps its address or tells it to others."""
    response.headers.update({"cache-control": "no-store", "referrer-policy": "no-referrer"})
    return response


async def _translate(protocol: Protocol, parts: tuple[str, ...], request: Request) -> Response:
    store: HeartbeatStore = request.app.state.store
    auth: IngestAuth = request.app.state.auth
    asked = _asked(request, parts, store, auth)
    address = protocol.read_address(asked)
    if not (address.service or store.names.is_complete):
        raise store.unknown_yet()
    if address.secret is not None:
        _enter(request, address)
    if address.must_exist and _name_of(address.name, store.names, []) not in store.names:
        raise not_found()
    said = await bodies.parsed(lambda raw: protocol.read(asked, address, raw), request)
    # Anything may have come to be known, or been deleted, while the body was awaited.
    if not (store.names.is_registered(address.service) if address.service else store.names.is_complete):
        raise not_found() if store.names.is_complete else store.unknown_yet()
    if address.secret is None:
        address = address._replace(secret=said.secret)
        _enter(request, address)
    auth.charge(address.secret or "", client_of(request), max(0, len(said.beats) - 1))
    registered, warnings, refused = False, list[str](), list[Problem]()
    for beat in said.beats:
        name = address.service or _name_of(beat.name, store.names, beat.warnings)
        registered = registered or name not in store.names
        beat = _in_order(name, beat, request.app.state.ended_runs)
        content = finished(beat.body, beat.headers, beat.duration, beat.warnings)
        try:
            await _store_content(request, name, content, by_key=bool(address.service))
        except Problem as problem:
            if problem.detail != problems.LIMIT_REACHED:
                raise
            refused.append(problem)  # a name that there is no room for costs no other
        warnings += content.warnings
    if refused:
        raise refused[0]
    response = protocol.answer(said, registered)
    if warnings:
        shown = " ".join("; ".join(warnings).split()).encode("ascii", "backslashreplace")
        response.headers["Registry-Warnings"] = visible(shown[:WARNINGS_SHOWN].decode())
    return response


def _in_order(name: str, beat: Beat, ended: EndedRuns) -> Beat:
    """A start that was sent before the end of its run, and comes after it, is no more than a log."""
    run, signal = beat.body.run, Signal(beat.headers.get(events.SIGNAL_HEADER, Signal.SUCCESS))
    if not run or beat.sent_at is None:
        return beat
    if signal in (Signal.SUCCESS, Signal.FAIL):
        ended.end(name, run, beat.sent_at)
    elif signal is Signal.START and ended.is_late(name, run, beat.sent_at):
        body = HeartbeatBody(message=f"the start of run {run}, after its end", metadata=beat.body.metadata)
        return beat._replace(body=body, headers=read_signal(Signal.LOG))
    return beat


def _enter(request: Request, address: Address) -> None:
    """Raises Problem 401, 403 or 429, as `_check` does. A key is enough, for its service."""
    auth: IngestAuth = request.app.state.auth
    good = _is_good(address, auth)
    if auth.loopback_only and not good and is_foreign(request.headers):
        raise Problem(403, "not from another site's page; with a token it may be")
    counted_for = address.service or address.secret or ""
    auth.enter(counted_for, good, client_of(request), needed=address.needs_key)


def _name_of(given: str, names: KnownNames, warnings: list[str]) -> str:
    """The service that a name means which another system's client writes: perhaps it had that one there."""
    return given if names.is_registered(given) else names.of_key(given) or mended_name(given, warnings)


@router.api_route("/heartbeat", methods=list(METHODS), include_in_schema=False)
@router.api_route("/heartbeat/{rest:path}", methods=list(METHODS), include_in_schema=False)
async def nowhere(request: Request, rest: str = "") -> Response:
    _check(request)
    raise bad_address(rest)


def _read_batch(raw: bytes) -> tuple[list[str], list[dict[str, str]], list[str]]:
    """The good names, why the others are refused, and warnings of what else was given."""
    try:
        given = json.loads(raw)
        services = given["services"]
    except (ValueError, KeyError, TypeError, RecursionError):
        services = None
    if not isinstance(services, list):
        raise Problem(422, 'body: JSON like {"services": ["a", "b"]} is needed')
    if len(services) > BATCH_MAX:
        raise Problem(422, f"services: at most {BATCH_MAX} names")
    good, refused = [], []
    for name in services:
        if isinstance(name, str) and events.valid_name(name):
            good.append(name)
        else:
            refused.append({"service": _echo(name), "reason": bad_name(name).detail})
    warnings = [
        f"{quoted(key)[1:-1]}: not used, as a batch says that its services are alive and nothing else"
        for key in list(given)[:10]
        if key != "services"
    ]
    return good, refused, warnings


def _echo(name: Any) -> str:
    """What the client sent, in a form and a length that can be sent back."""
    return name[:200].encode(errors="replace").decode() if isinstance(name, str) else quoted(name)
