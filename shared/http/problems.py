"""Errors over HTTP: RFC 9457 problem details, one shape everywhere. A 500 carries no detail."""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

log = structlog.get_logger()


LIMIT_REACHED = "the registry's limit of services is reached (REGISTRY_MAX_SERVICES)"
LIMIT_RETRY_AFTER = 60
"""Seconds after which a service may have been deleted."""


class Problem(HTTPException):
    """Raise it anywhere below a route. `retry_after` is in seconds; `also`: further members of the body."""

    headers: dict[str, str]

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        retry_after: int = 0,
        headers: dict[str, str] | None = None,
        also: dict[str, Any] | None = None,
    ) -> None:
        self.also = also or {}
        retry = {"Retry-After": str(retry_after)} if retry_after else {}
        super().__init__(status, detail, (headers or {}) | retry)

    @property
    def status(self) -> int:
        return self.status_code


def response(problem: Problem) -> JSONResponse:
    title = HTTPStatus(problem.status).phrase
    body = {"type": "about:blank", "title": title, "status": problem.status, "detail": problem.detail}
    return JSONResponse(body | problem.also, problem.status, problem.headers, "application/problem+json")


_IN_WORDS_OF_JSON = {
    "tuple_type": "Input should be a valid array",
    "model_attributes_type": "Input should be an object",
}


def explain(errors: Any, fields: Collection[str] = ()) -> str:
    """Which field broke which rule, for people. Never the value: it may be secret or large. `fields`: those
    that may have been meant by one that there is not."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])).removeprefix('body.') or 'body'}: "
        + _IN_WORDS_OF_JSON.get(error["type"], error["msg"].removeprefix("Value error, "))
        + (_meant(str(error["loc"][-1]), fields) if error["type"] == "extra_forbidden" else "")
        for error in list(errors)[:5]
    )


def _meant(field: str, fields: Collection[str]) -> str:
    near = get_close_matches(field[:40].lower(), fields, 1)
    return f"; do you mean {near[0]}?" if near else ""


Answer = Callable[[Request, Problem], Response]


def install(
    app: Starlette,
    answer: Answer = lambda _, problem: response(problem),
    fields: Collection[str] = (),
) -> None:
    """Answer every error of `app` as problem details, or as `answer` does. `fields`: those of bodies, to name
    one that may have been meant."""
    from fastapi.exceptions import RequestValidationError  # monitor and notifier do without FastAPI

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, Problem(422, explain(error.errors(), fields)))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not isinstance(error, Problem):
            headers = dict(error.headers or {}) | (
                {"Allow": _allowed(request)} if error.status_code == 405 else {}
            )
            error = Problem(error.status_code, str(error.detail), headers=headers)
        return answer(request, error)

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("request failed", path=_without_keys(request.url.path), error=repr(error))
        return answer(request, Problem(500, "This is our mistake; the log says what happened."))

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)


def _allowed(request: Request) -> str:
    """All methods of its address: a router names those of the first route only. HEAD counts as GET. What is
    mounted without routes of its own are files, which are only read."""
    asked = ((method, {**request.scope, "method": method.replace("HEAD", "GET")}) for method in _METHODS)
    routes = request.app.routes
    its = [method for method, scope in asked if any(it.matches(scope)[0] is Match.FULL for it in routes)]
    return ", ".join(its or _METHODS[:2])


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def _without_keys(path: str) -> str:
    """A path as it may stand in a log: clients of other systems have their keys in theirs."""
    first = path.split("/")[1:2]
    return f"/{first[0]}/…" if first in (["ping"], ["api"]) else path


_MEANINGS = {
    401: "Wrong or missing token",
    404: "No such service",
    409: "It exists already",
    412: "Stale version",
    413: "Body over 1 MiB",
    422: "A name or a body breaks a rule; the detail says which",
    429: "Too many; see Retry-After",
    502: "Not delivered; the detail says why",
    503: "Not stored; see Retry-After",
    504: "Not known to be delivered",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the `responses=` of routes: the problems that one can answer with."""
    return {
        status: {"description": _MEANINGS[status], "content": {"application/problem+json": {}}}
        for status in statuses
    }
