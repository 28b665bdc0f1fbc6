"""What everybody may see: the status page of what REGISTRY_STATUS_PAGE names, and the icon of all pages."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from services.api.context import Api, ApiContext
from services.api.dashboard.pages import rows
from services.api.dashboard.rendering import ORDER, SECURED, page, templates
from services.api.queries.index import ServiceQuery
from shared.contracts.events import Status
from shared.http.problems import Problem

MAX_SERVICES = 500
LONG_WINDOW_UP_TO = 50
"""Services of which it shows 90 days; of more it shows a day."""

router = APIRouter()


@router.get("/status", response_class=HTMLResponse)
async def status_page(request: Request, api: Api) -> HTMLResponse:
    if not api.settings.status_page:
        raise Problem(404, "there is no status page here (REGISTRY_STATUS_PAGE)")
    api.check_caught_up()
    return HTMLResponse(await api.status_page.get(lambda: _made(request, api)), headers=SECURED)


async def _made(request: Request, api: ApiContext) -> str:
    queries = [ServiceQuery(tags=() if tag == "*" else (tag,), limit=500) for tag in api.settings.status_page]
    names = sorted({name for query in queries for name in api.hub.index.page(query)[0]})
    long = len(names) <= LONG_WINDOW_UP_TO
    shown = await rows(api, names[:MAX_SERVICES], "90d" if long else "24h")
    shown.sort(key=lambda row: (ORDER.index(row.service.status), row.service.name))
    title = status_title([row.service.status for row in shown])
    return bytes(page(request, "status.html", rows=shown, title=title, long=long).body).decode()


def status_title(statuses: Sequence[Status]) -> str:
    """What the page says of all of them. One without any heartbeat yet is neither up nor down."""
    down = sum(status in (Status.DOWN, Status.DEAD) for status in statuses)
    unknown = sum(status is Status.UNKNOWN for status in statuses)
    if not statuses:
        return "Nothing to show yet"
    if down:
        return f"{down} of {len(statuses)} down"
    if unknown == len(statuses):
        return "Nothing was heard yet"
    return "Everything that was heard is up" if unknown else "Everything is up"


@router.get("/favicon.svg")
async def favicon(down: Annotated[int, Query(ge=0)] = 0) -> Response:
    """A dot, or how many are down."""
    picture = templates.get_template("favicon.svg").render(down="99+" if down > 99 else down)
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(picture, media_type="image/svg+xml", headers=headers)
