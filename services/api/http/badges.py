"""Badges: a label and a value in a flat picture."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from services.api.context import Api
from services.api.dashboard.rendering import templates
from services.api.http.routing import BEARER, NameInPath, UptimeWindow
from shared.domain import timeline
from shared.http.problems import documented

_SVG: dict[str, Any] = {"content": {"image/svg+xml": {"example": "<svg …/>"}}, "description": "A flat badge"}

Key = Annotated[str, Query(description="What the service's page gives, in place of a token.")]

reads = APIRouter(
    dependencies=[BEARER],
    responses=documented(401, 404, 422, 503) | {200: _SVG},
    default_response_class=Response,
    tags=["badges"],
)


@reads.get("/badge/{name}.svg")
async def get_status_badge(request: Request, name: NameInPath, api: Api, key: Key = "") -> Response:
    """A picture of its status."""
    api.check_caught_up()
    api.auth.may_see_badge(request, name, key)
    state = await api.state(name)
    return _picture(status(name, "paused" if state.paused else state.status.value))


@reads.get("/badge/{name}/uptime.svg")
async def get_uptime_badge(
    request: Request, name: NameInPath, api: Api, window: UptimeWindow = "30d", key: Key = ""
) -> Response:
    """A picture of its uptime."""
    api.check_caught_up()
    api.auth.may_see_badge(request, name, key)
    seconds = timeline.spent(await api.segments_of(name, window))
    return _picture(uptime(name, window, timeline.uptime(seconds)))


def _picture(svg: str) -> Response:
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=10"})


COLOURS = {
    "alive": "#2b7d3f",
    "silent": "#8a6300",
    "down": "#b3261e",
    "dead": "#6b3fa0",
    "unknown": "#5c6168",
    "paused": "#5c6168",
}
_BADGE = templates.get_template("badge.svg")
_WIDE, _NARROW = frozenset("mwMW@%"), frozenset("iljtfrI.,:;|!'()[] ")


def status(name: str, value: str) -> str:
    return draw(name, value, COLOURS[value])


def uptime(name: str, window: str, share: float | None) -> str:
    if share is None:
        return draw(f"{name} {window}", "no data", COLOURS["unknown"])
    colour = COLOURS["alive" if share >= 0.99 else "silent" if share >= 0.9 else "down"]
    return draw(f"{name} {window}", timeline.percent(share).replace(" ", ""), colour)


def _width(text: str) -> int:
    """About how wide it is in 11 px Verdana."""
    return round(sum(9.5 if c in _WIDE else 4.4 if c in _NARROW else 7.2 for c in text)) + 12


def draw(label: str, value: str, colour: str) -> str:
    """A badge with these words."""
    left, right = _width(label), _width(value)
    return _BADGE.render(label=label, value=value, colour=colour, left=left, right=right)
