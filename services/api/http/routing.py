"""What the API's routes have in common: who may use them, and how bodies and names are read."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic_core import from_json

from services.api.context import Api, context_of
from services.api.http.auth import ApiAuth, Role
from shared.contracts.configuration_file import SIZE_MAX as FILE_MAX
from shared.contracts.events import NAME_MAX, NAME_RULE_IN_WORDS, valid_name
from shared.http import bodies
from shared.http.problems import Problem, documented


class _JsonRequest(Request):
    """Its body is read within our limits, and is JSON, whatever content type the client names."""

    def __init__(self, request: Request, most: int = bodies.BODY_MAX) -> None:
        self._most = most
        headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
        super().__init__({**request.scope, "headers": headers}, request.receive)

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await bodies.read(self, self._most)
        return self._body

    async def json(self) -> Any:
        try:
            return from_json(await self.body())
        except ValueError as error:
            raise Problem(422, f"body: Invalid JSON: {error}") from None


class _BodyRoute(APIRoute):
    """Checks who asks before it reads the body, so that nobody else makes us read one."""

    body_max = bodies.BODY_MAX

    @staticmethod
    def check(auth: ApiAuth, request: Request) -> None:
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            api = context_of(request)
            self.check(api.auth, request)
            api.check_caught_up()
            return await handle(_JsonRequest(request, self.body_max))

        return check_and_handle


class _WritingRoute(_BodyRoute):
    @staticmethod
    def check(auth: ApiAuth, request: Request) -> None:
        auth.may_write(request)


class _AskingRoute(_BodyRoute):
    @staticmethod
    def check(auth: ApiAuth, request: Request) -> None:
        auth.may_read(request)


class _ReplayingRoute(_AskingRoute):
    """Asks, with a whole file."""

    body_max = FILE_MAX


class _PlanningRoute(_BodyRoute):
    """Writes, unless it is asked to be `dry`."""

    body_max = FILE_MAX

    @staticmethod
    def check(auth: ApiAuth, request: Request) -> None:
        if request.query_params.get("dry", "").lower() in ("true", "1"):
            auth.may_read(request)
        else:
            auth.may_write(request)


async def _may_read(request: Request, api: Api) -> None:
    api.auth.may_read(request)
    api.check_caught_up()


async def _valid_name(
    name: Annotated[
        str, Path(description=f"{NAME_RULE_IN_WORDS}; at most {NAME_MAX}.", examples=["my-service"])
    ],
) -> str:
    if not valid_name(name):
        raise Problem(422, f"name: {NAME_RULE_IN_WORDS}")
    return name


BEARER = Depends(HTTPBearer(auto_error=False, description="REGISTRY_API_TOKEN or REGISTRY_READ_TOKEN"))
"""Shows in the documentation that a token may be needed."""


async def _may_see_keys(request: Request, api: Api) -> bool:
    return api.auth.role(request) is Role.ADMIN


async def _who_asks(request: Request, api: Api) -> str:
    return api.auth.actor(request)


Actor = Annotated[str, Depends(_who_asks)]
"""Who asks, as events say it."""
WithKeys = Annotated[bool, Depends(_may_see_keys)]
"""Whether whoever asks may write, and so see what heartbeats can be sent with."""
NameInPath = Annotated[str, Depends(_valid_name)]
IfMatch = Annotated[str | None, Header(description="Only if the version is still this ETag.")]
Limit = Annotated[int, Query(ge=1, le=500)]
UptimeWindow = Annotated[
    str, Query(pattern="^(24h|7d|30d|90d)$", description="How far back: 24h, 7d, 30d or 90d.")
]


def reading(tag: str) -> APIRouter:
    """For routes that need a read token."""
    return APIRouter(dependencies=[Depends(_may_read), BEARER], responses=documented(401, 503), tags=[tag])


def writing(tag: str) -> APIRouter:
    """For routes that need the API token."""
    return _with_body(tag, _WritingRoute)


def asking(tag: str) -> APIRouter:
    """For routes that need a read token, and a body."""
    return _with_body(tag, _AskingRoute)


def planning(tag: str) -> APIRouter:
    """For routes that need the API token, or a read token where they are to change nothing: `?dry=true`."""
    return _with_body(tag, _PlanningRoute)


def replaying(tag: str) -> APIRouter:
    """For routes that need a read token, and a whole file."""
    return _with_body(tag, _ReplayingRoute)


def _with_body(tag: str, route_class: type[_BodyRoute]) -> APIRouter:
    return APIRouter(
        route_class=route_class,
        strict_content_type=False,  # there is none, see `_JsonRequest`
        dependencies=[BEARER],
        responses=documented(401, 503),
        tags=[tag],
    )
