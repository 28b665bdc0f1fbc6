"""Routes as JSON: who hears of what."""

from typing import Annotated

from fastapi import Body, Response

from services.api.context import Api
from services.api.http.models import EXAMPLES, RoutesTested, RoutesView, RoutesWanted, RouteTest
from services.api.http.routing import Actor, IfMatch, asking, reading, writing
from shared.http.problems import Problem, documented

_EXAMPLE = {"routes": EXAMPLES["routes"]["routes"]}

writes, reads, asks = writing("routes"), reading("routes"), asking("routes")


def _with_etag(view: RoutesView, response: Response) -> RoutesView:
    response.headers["ETag"] = f'"{view.version}"'
    return view


@reads.get("/routes")
async def get_routes(response: Response, api: Api) -> RoutesView:
    """All routes, in order. The first that matches decides, and those below it as far as each has `continue`.
    What no route matches goes to every channel."""
    return _with_etag(api.routes.shown(), response)


@writes.put("/routes", responses=documented(412, 413, 422))
async def replace_routes(
    routes: Annotated[RoutesWanted, Body(examples=[_EXAMPLE])],
    response: Response,
    api: Api,
    actor: Actor,
    if_match: IfMatch = None,
) -> RoutesView:
    """Set them all anew; an empty list: every channel hears of everything. A channel that there is not: 422;
    while no notifier says which there are: 503."""
    return _with_etag(await api.routes.replace(routes, if_match, actor), response)


@asks.post("/routes/test", responses=documented(404, 413, 422))
async def test_routes(
    asked: Annotated[RouteTest, Body(examples=[EXAMPLES["route_test"]])], api: Api
) -> RoutesTested:
    """Who would hear of a service in a status at a moment, how, and by which route. Nothing is sent."""
    tags = asked.tags
    if tags is None:
        if not (state := api.hub.index.get(asked.name)):
            raise Problem(404, f"there is no service {asked.name}; give its tags")
        tags = state.tags
    return await api.routes.test(asked, tags, api.now())
