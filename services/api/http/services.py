"""The API's JSON: each route reads, asks the read models or a command, and answers."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, time
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime
from starlette.responses import StreamingResponse

from services.api.commands import Commands, existing
from services.api.http import badge, live, maintenance, page_cursors, tags
from services.api.http.auth import ApiAuth
from services.api.http.maintenance import Maintenance
from services.api.http.models import (
    Defaults,
    HeardPage,
    HistoryItem,
    HistoryPage,
    NewService,
    Seconds,
    Service,
    ServicePage,
    Summary,
    Uptime,
    Wanted,
    answers,
    presenter,
)
from services.api.http.requests import IfMatch, NameInPath, body, documented_body, listed
from services.api.projections.documents import Document, micros, moment, shown
from services.api.projections.store import Store
from services.api.queries import history
from services.api.queries.event_hub import EventHub
from services.api.queries.index import SORTS, Place, ServiceQuery, Sort
from services.api.queries.past import StatusHistory
from services.api.queries.summary import next_digest
from services.api.queries.uptime import WINDOWS
from shared.contracts.events import Status
from shared.domain import timeline
from shared.http.problems import Problem, documented
from shared.http.protocol import stranger_of
from shared.http.server import Health
from shared.messaging.connection import BrokerConnection

WORST = (Status.DOWN, Status.SILENT, Status.DEAD)

_SORTING = r"^-?(name|status|since|last_heartbeat)$"
_LISTED = "Repeat it, or put commas between."

Limit = Annotated[int, Query(ge=1, le=500)]
Window = Annotated[str, Query(pattern="^(24h|7d|30d|90d)$", description="How far back: 24h, 7d, 30d or 90d.")]


class RequestContext(NamedTuple):
    """What answers show of the configuration. `deaf_after`: microseconds without a tick."""

    public_url: str
    ingest_url: str
    zone: ZoneInfo
    digest_time: time | None
    ingest_token: bool
    status_tags: tuple[str, ...]
    deaf_after: int


class Parts(NamedTuple):
    """What the routes work with."""

    link: BrokerConnection
    store: Store
    board: EventHub
    commands: Commands
    access: ApiAuth
    health: Health
    defaults: Defaults
    look: RequestContext
    now: Callable[[], datetime]
    maintenance: Maintenance
    past: StatusHistory


def routers(parts: Parts) -> list[APIRouter]:
    """The routes of section "API" in the README: those that read, and those that write."""
    link, store, board, commands, access, health, defaults, look, now, windows, _ = parts

    def caught_up() -> None:
        """Before the first catch-up the read models would deny services that exist."""
        if "projection" in health.missing:
            raise Problem(503, "still reading the record; see /readyz", retry_after=2)

    scheme = Depends(HTTPBearer(auto_error=False, description="REGISTRY_API_TOKEN or REGISTRY_READ_TOKEN"))
    ready = Depends(caught_up)
    reads = APIRouter(dependencies=[Depends(access.may_read), ready, scheme], responses=documented(401, 503))
    writes = APIRouter(
        dependencies=[Depends(access.may_write), ready, scheme], responses=documented(401, 503)
    )
    present = presenter(defaults, look.public_url)

    def answer(document: Document, response: Response) -> Service:
        service = present(existing(document["_id"], document))
        response.headers["ETag"] = service.etag
        return service

    # --- commands

    @writes.post(
        "/service",
        status_code=201,
        operation_id="create_service",
        tags=["services"],
        responses=answers(Service, 409, 413, 422, 429, status=201),
        openapi_extra=documented_body(NewService, _EXAMPLE),
    )
    async def create(wanted: Annotated[NewService, Depends(body(NewService))], response: Response) -> Service:
        """Register a service. 409 if it exists."""
        document = await commands.create(wanted)
        response.headers["Location"] = f"/service/{wanted.name}"
        return answer(document, response)

    @writes.put(
        "/service/{name}",
        operation_id="replace_service",
        tags=["services"],
        responses=answers(Service, 412, 413, 422, 429) | answers(Service, status=201),
        openapi_extra=documented_body(Wanted, _EXAMPLE),
    )
    async def replace(
        name: NameInPath,
        wanted: Annotated[Wanted, Depends(body(Wanted))],
        response: Response,
        if_match: IfMatch = None,
    ) -> Service:
        """Set the whole configuration, of a new service as well; what is absent becomes the default."""
        _same_name(name, wanted)
        document, created = await commands.replace(name, wanted, if_match)
        if created:
            response.status_code = 201
            response.headers["Location"] = f"/service/{name}"
        return answer(document, response)

    @writes.patch(
        "/service/{name}",
        operation_id="change_service",
        tags=["services"],
        responses=answers(Service, 404, 412, 413, 422),
        openapi_extra=documented_body(Wanted, {"silent_after": "5m", "down_after": None}),
    )
    async def change(
        name: NameInPath,
        wanted: Annotated[Wanted, Depends(body(Wanted))],
        response: Response,
        if_match: IfMatch = None,
    ) -> Service:
        """Change what is given; null sets it back to the default."""
        _same_name(name, wanted)
        return answer(await commands.merge(name, wanted, if_match), response)

    @writes.delete(
        "/service/{name}",
        status_code=204,
        operation_id="delete_service",
        tags=["services"],
        responses=documented(404, 412, 422),
    )
    async def delete(name: NameInPath, if_match: IfMatch = None) -> None:
        """Forget a service. Its next heartbeat registers it anew."""
        await commands.delete(name, if_match)

    @writes.post(
        "/service/{name}/pause",
        operation_id="pause_service",
        tags=["services"],
        responses=answers(Service, 404, 412, 422),
    )
    async def pause(name: NameInPath, response: Response, if_match: IfMatch = None) -> Service:
        """Stop judging it. Its heartbeats still count."""
        return answer(await commands.pause(name, if_match), response)

    @writes.post(
        "/service/{name}/resume",
        operation_id="resume_service",
        tags=["services"],
        responses=answers(Service, 404, 412, 422),
    )
    async def resume(name: NameInPath, response: Response, if_match: IfMatch = None) -> Service:
        """Judge it again, from its next heartbeat on."""
        return answer(await commands.resume(name, if_match), response)

    # --- reads

    @reads.get(
        "/service/{name}", operation_id="get_service", tags=["services"], responses=answers(Service, 404, 422)
    )
    async def get(
        name: NameInPath,
        response: Response,
        at: Annotated[
            AwareDatetime | None,
            Query(description="A moment in the past, to see it as it was then.", examples=[_MOMENT]),
        ] = None,
    ) -> Service:
        """One service as it is now, or as it was at a moment."""
        if at is None:
            return answer(existing(name, await store.live.get(name)), response)
        document = await history.as_of(link, name, at)
        if document is None:
            raise Problem(404, f"there was no service {name} then")
        return present(document)

    @reads.get(
        "/services", operation_id="list_services", tags=["services"], responses=answers(ServicePage, 422)
    )
    async def services(
        status: Annotated[
            list[str],
            Query(default_factory=list, description=f"Any of these. {_LISTED}", examples=[["down"]]),
        ],
        tag: Annotated[list[str], Query(default_factory=list, description=f"All of these. {_LISTED}")],
        q: Annotated[str, Query(max_length=200, description="Part of the name or the description.")] = "",
        sort: Annotated[str, Query(pattern=_SORTING, description="With '-' in front: reversed.")] = "name",
        limit: Limit = 50,
        cursor: str | None = None,
    ) -> ServicePage:
        """A page of services. A service that stays as it is appears exactly once, whatever else changes."""
        wanted = selection(listed(status), tags.asked_for(tag, board.roster.has_tag), q, sort, limit, cursor)
        names, last, total = board.roster.page(wanted)
        return ServicePage(
            items=[present(document) for document in await store.live.named(names)],
            next=page_cursors.write(sort, *last) if last else None,
            total=total,
        )

    @reads.get(
        "/service/{name}/events",
        operation_id="list_service_events",
        tags=["services"],
        responses=answers(HistoryPage, 404, 422),
    )
    async def events(name: NameInPath, limit: Limit = 50, cursor: str | None = None) -> HistoryPage:
        """What happened to a service, newest first."""
        existing(name, await store.live.get(name))
        before = int(page_cursors.read(cursor, int)[0]) if cursor else None
        rows = await store.live.history(name, before, limit)
        return HistoryPage(
            items=[
                HistoryItem(seq=row["_id"], type=row["type"], at=moment(row["at"]), data=row["data"])
                for row in rows[:limit]
            ],
            next=page_cursors.write(rows[limit - 1]["_id"]) if len(rows) > limit else None,
        )

    @reads.get("/summary", operation_id="get_summary", tags=["services"], responses=answers(Summary))
    async def summary() -> Summary:
        """How many are in which status, the worst of them, and what the next digest would say."""
        counts = board.roster.counts
        names, *_ = board.roster.page(ServiceQuery(statuses=WORST, sort="status", limit=10))
        return Summary(
            counts=counts,
            total=len(board.roster),
            worst=[present(document) for document in await store.live.named(names)],
            next_digest=next_digest(board, now(), look.zone, look.digest_time, look.deaf_after),
        )

    @reads.get(
        "/service/{name}/heartbeats",
        operation_id="list_service_heartbeats",
        tags=["services"],
        responses=answers(HeardPage, 404, 422),
    )
    async def heartbeats(name: NameInPath, limit: Limit = 50) -> HeardPage:
        """Its last heartbeats, newest first, as far as the broker keeps them (REGISTRY_HEARTBEATS_KEPT)."""
        life = existing(name, await store.live.get(name))["config"]["registered_at"]
        return HeardPage(items=await history.heartbeats(link, name, life, limit))

    @reads.get(
        "/service/{name}/uptime",
        operation_id="get_service_uptime",
        tags=["services"],
        responses=answers(Uptime, 404, 422),
    )
    async def uptime(name: NameInPath, window: Window = "24h") -> Uptime:
        """How it was in a window: seconds in each status, and what nobody can know apart."""
        document = existing(name, await store.live.get(name))
        found = await segments_of(parts, document, window)
        seconds = timeline.spent(found)
        return Uptime(
            window=window,
            uptime=timeline.uptime(seconds),
            from_=moment(next((it.start for it in found if it.state != timeline.NOTHING), found[-1].end)),
            to=moment(found[-1].end),
            seconds=Seconds(**seconds),
        )

    @reads.get(
        "/events",
        operation_id="follow_events",
        tags=["events"],
        response_class=StreamingResponse,
        responses=documented(422) | {200: live.DOCUMENTED},
    )
    async def events_live(
        request: Request,
        last_event_id: Annotated[
            str | None, Header(description="Go on after this event, as browsers do by themselves.")
        ] = None,
        after: Annotated[
            int | None, Query(ge=0, le=2**53, description="The same, where a header cannot be set.")
        ] = None,
        heartbeats: Annotated[
            bool, Query(description="Also who was heard, once a second, as events named `heartbeats`.")
        ] = False,
    ) -> StreamingResponse:
        """Every change as it happens, as Server-Sent Events; the id is its sequence in the record. (When the
        record was replaced by another one, something follows it that tells them apart.)"""
        seen = live.sequence(last_event_id, board)
        return live.stream(link, board, after if seen is None else seen, heartbeats, stranger_of(request))

    badges = APIRouter(
        dependencies=[ready, scheme],
        responses=documented(401, 404, 422, 503) | {200: _SVG},
        default_response_class=Response,
        tags=["badges"],
    )
    key_for_one = Annotated[str, Query(description="What the service's page gives, in place of a token.")]

    @badges.get("/badge/{name}.svg", operation_id="get_status_badge")
    async def status_badge(request: Request, name: NameInPath, key: key_for_one = "") -> Response:
        """A picture of its status."""
        access.may_see_badge(request, name, key)
        document = existing(name, await store.live.get(name))
        paused = document["config"]["paused"]
        return _svg(badge.status(name, "paused" if paused else shown(document).status.value))

    @badges.get("/badge/{name}/uptime.svg", operation_id="get_uptime_badge")
    async def uptime_badge(
        request: Request, name: NameInPath, window: Window = "30d", key: key_for_one = ""
    ) -> Response:
        """A picture of its uptime."""
        access.may_see_badge(request, name, key)
        document = existing(name, await store.live.get(name))
        found = await segments_of(parts, document, window)
        share = timeline.uptime(timeline.spent(found))
        return _svg(badge.uptime(name, window, share))

    maintenance.install(reads, writes, windows, now)
    return [writes, reads, badges]


async def marks_of(parts: Parts, names: Collection[str], window: str) -> dict[str, Sequence[timeline.Mark]]:
    """What marks each service in a window of `WINDOWS`, and perhaps before it. The last day is in
    memory."""
    if window == "24h":
        return {name: parts.board.lately(name) for name in names}
    return await parts.past.marks(names)


async def segments_of(parts: Parts, document: Document, window: str) -> list[timeline.Segment]:
    """The same for one service alone."""
    name = document["_id"]
    return segments(parts, document, window, (await marks_of(parts, [name], window))[name])


def segments(
    parts: Parts, document: Document, window: str, marks: Sequence[timeline.Mark]
) -> list[timeline.Segment]:
    """What a service was in a window of `WINDOWS`."""
    at = parts.now()
    looks, config = shown(document), document["config"]
    now = timeline.Now(looks.status, config["paused"], config["registered_at"], micros(at))
    gaps = parts.board.coverage.gaps_until(now.at, parts.look.deaf_after)
    begins = parts.board.begins.get(document["_id"], 0)
    return timeline.segments(marks, now, micros(at - WINDOWS[window]), gaps, begins)


_MOMENT = "2026-11-01T12:00:00Z"
_SVG: dict[str, Any] = {"content": {"image/svg+xml": {"example": "<svg …/>"}}, "description": "A flat badge"}


def _svg(picture: str) -> Response:
    return Response(picture, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=10"})


_EXAMPLE = {
    "name": "billing.worker",
    "description": "Sends the invoices",
    "tags": ["billing", "nightly"],
    "down_after": "2h",
}


def _same_name(name: str, wanted: Wanted) -> None:
    if wanted.name not in (None, name):
        raise Problem(422, f"name: the path says {name}, the body {wanted.name}")


def selection(
    statuses: list[str], tags: list[str], text: str, sort: str, limit: int, cursor: str | None
) -> ServiceQuery:
    if wrong := next((status for status in statuses if status not in set(Status)), None):
        raise Problem(422, f"status: {wrong[:50]!r} is none of {', '.join(Status)}")
    if "\0" in text:
        raise Problem(422, "q: no name or description has a NUL in it")
    key: Sort = _sort_key(sort)
    return ServiceQuery(
        statuses, tags, text, key, sort.startswith("-"), _after(sort, key, cursor) if cursor else None, limit
    )


def _sort_key(sort: str) -> Sort:
    return next(key for key in SORTS if key == sort.removeprefix("-"))


def _after(sort: str, key: Sort, cursor: str) -> Place:
    of, value, name = page_cursors.read(cursor, str, str if key == "name" else int, str)
    if of != sort:
        raise page_cursors.bad()
    return value, str(name)
