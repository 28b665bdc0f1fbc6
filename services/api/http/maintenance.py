"""Maintenance windows as JSON."""

from typing import Annotated

from fastapi import Body, Query, Response
from pydantic import AwareDatetime

from services.api.context import Api
from services.api.http.models import EXAMPLES, WindowPage, WindowView
from services.api.http.routing import Actor, IfMatch, reading, writing
from shared.contracts.maintenance import Window
from shared.http.problems import documented

At = Annotated[
    AwareDatetime | None, Query(description="As of this moment.", examples=["2026-11-01T12:00:00Z"])
]
NewWindow = Annotated[Window, Body(examples=[EXAMPLES["new_window"]])]

writes, reads = writing("maintenance"), reading("maintenance")


def _with_etag(view: WindowView, response: Response) -> WindowView:
    response.headers["ETag"] = f'"{view.version}"'
    return view


@writes.post("/maintenance", status_code=201, responses=documented(409, 413, 422))
async def create_maintenance(window: NewWindow, response: Response, api: Api, actor: Actor) -> WindowView:
    """Changes of these services are recorded, but no alerts are sent, while it lasts; what is still down when
    it ends is sent then."""
    view = await api.maintenance.add(window, api.now(), actor)
    response.headers["Location"] = f"/maintenance/{view.id}"
    return _with_etag(view, response)


@reads.get("/maintenance", responses=documented(422))
async def list_maintenance(api: Api, at: At = None) -> WindowPage:
    """All windows: what is now first, then what is next, then what is over; now, or as of a moment."""
    return WindowPage(items=api.maintenance.all(at or api.now()))


@reads.get("/maintenance/{id}", responses=documented(404, 422))
async def get_maintenance(id: str, response: Response, api: Api, at: At = None) -> WindowView:
    """One window, now or as of a moment."""
    return _with_etag(api.maintenance.shown(id, at or api.now()), response)


@writes.put("/maintenance/{id}", responses=documented(404, 412, 413, 422))
async def replace_maintenance(
    id: str, window: NewWindow, response: Response, api: Api, actor: Actor, if_match: IfMatch = None
) -> WindowView:
    """Set the whole window anew."""
    return _with_etag(await api.maintenance.replace(id, window, if_match, api.now(), actor), response)


@writes.delete("/maintenance/{id}", status_code=204, responses=documented(404, 412))
async def delete_maintenance(id: str, api: Api, actor: Actor, if_match: IfMatch = None) -> None:
    """End it, or take it back. What went down within it and is still down is sent now."""
    await api.maintenance.delete(id, if_match, actor)
