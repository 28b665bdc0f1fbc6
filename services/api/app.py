"""The HTTP front: each route reads, asks the store or a command, and answers."""

from collections.abc import Callable
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from services.api import cursors, page
from services.api.access import Access
from services.api.commands import Commands, existing
from services.api.fold import Document, moment
from services.api.models import (
    Defaults,
    HistoryItem,
    HistoryPage,
    NewService,
    Service,
    ServicePage,
    Summary,
    Wanted,
    answers,
    presenter,
)
from services.api.requests import NameInPath, body, documented_body, listed
from services.api.store import SORTS, DatabaseAway, Sort, Store
from services.api.store import Query as Selection
from services.api.summary import next_digest
from shared import problems
from shared.broker import BrokerError
from shared.events import Status
from shared.problems import Problem, documented
from shared.service import Health

WORST = (Status.DOWN, Status.SILENT, Status.DEAD)
PAGE_ROWS = 500

_SORTING = r"^-?(name|status|since|last_heartbeat)$"
_LISTED = "Repeat it, or put commas between."

IfMatch = Annotated[str | None, Header(description="Only if the version is still this ETag.")]
Limit = Annotated[int, Query(ge=1, le=500)]


class Look(NamedTuple):
    """What answers show of the configuration."""

    public_url: str
    ingest_url: str
    zone: ZoneInfo
    digest_time: time | None


def build(
    store: Store,
    commands: Commands,
    access: Access,
    health: Health,
    defaults: Defaults,
    look: Look,
    now: Callable[[], datetime],
) -> FastAPI:
    app = FastAPI(
        title="services registry",
        summary="Which services are alive, and which are not.",
        version="1",
        redirect_slashes=False,
        routes=health.routes(),
    )
    problems.install(app)
    _answer_outages(app)

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
        responses=answers(Service, 409, 413, 422, status=201),
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
        responses=answers(Service, 404, 412, 413, 422),
        openapi_extra=documented_body(Wanted, _EXAMPLE),
    )
    async def replace(
        name: NameInPath,
        wanted: Annotated[Wanted, Depends(body(Wanted))],
        response: Response,
        if_match: IfMatch = None,
    ) -> Service:
        """Set the whole configuration; what is absent becomes the default."""
        _same_name(name, wanted)
        return answer(await commands.replace(name, wanted, if_match), response)

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
    async def get(name: NameInPath, response: Response) -> Service:
        """One service as it is now."""
        return answer(existing(name, await store.live.get(name)), response)

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
        selection = _selection(listed(status), listed(tag), q, sort, limit, cursor)
        found = await store.live.page(selection)
        items = found[:limit]
        return ServicePage(
            items=[present(document) for document in items],
            next=_next(sort, items[-1]) if len(found) > limit else None,
            total=await store.live.count(selection),
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
        before = int(cursors.read(cursor, int)[0]) if cursor else None
        rows = await store.live.history(name, before, limit)
        return HistoryPage(
            items=[
                HistoryItem(seq=row["_id"], type=row["type"], at=moment(row["at"]), data=row["data"])
                for row in rows[:limit]
            ],
            next=cursors.write(rows[limit - 1]["_id"]) if len(rows) > limit else None,
        )

    @reads.get("/summary", operation_id="get_summary", tags=["services"], responses=answers(Summary))
    async def summary() -> Summary:
        """How many are in which status, the worst of them, and what the next digest would say."""
        counts = await store.live.counts()
        worst = await store.live.page(Selection(statuses=WORST, sort="status", limit=10))
        return Summary(
            counts=counts,
            total=sum(counts.values()),
            worst=[present(document) for document in worst[:10]],
            next_digest=await next_digest(store.live, now(), look.zone, look.digest_time),
        )

    @reads.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def dashboard() -> HTMLResponse:
        """All services for people, problems first."""
        documents = await store.live.page(Selection(sort="status", limit=PAGE_ROWS))
        shown = [present(document) for document in documents[:PAGE_ROWS]]
        return page.render(shown, await store.live.counts(), now(), look.ingest_url)

    @reads.get("/ui/service/{name}", response_class=RedirectResponse, include_in_schema=False)
    async def service_page(name: NameInPath) -> str:
        """Where messages link to; until there is a page for one service, its data."""
        return f"/service/{name}"

    @app.middleware("http")
    async def never_cached(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    app.include_router(writes)
    app.include_router(reads)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


_EXAMPLE = {
    "name": "billing.worker",
    "description": "Sends the invoices",
    "tags": ["billing", "nightly"],
    "down_after": "2h",
}


def _answer_outages(app: FastAPI) -> None:
    async def database_away(_: Request, error: Exception) -> Response:
        detail = "the database cannot be reached; a change that was sent may be stored all the same"
        return problems.response(Problem(503, detail, retry_after=2))

    async def broker_away(_: Request, error: Exception) -> Response:
        return problems.response(Problem(503, f"not known to be stored: {error}", retry_after=2))

    app.add_exception_handler(DatabaseAway, database_away)
    app.add_exception_handler(BrokerError, broker_away)


def _same_name(name: str, wanted: Wanted) -> None:
    if wanted.name not in (None, name):
        raise Problem(422, f"name: the path says {name}, the body {wanted.name}")


def _selection(
    statuses: list[str], tags: list[str], text: str, sort: str, limit: int, cursor: str | None
) -> Selection:
    if wrong := next((status for status in statuses if status not in set(Status)), None):
        raise Problem(422, f"status: {wrong[:50]!r} is none of {', '.join(Status)}")
    if "\0" in text:
        raise Problem(422, "q: no name or description has a NUL in it")
    key: Sort = _sort_key(sort)
    return Selection(
        statuses, tags, text, key, sort.startswith("-"), _after(sort, key, cursor) if cursor else None, limit
    )


def _sort_key(sort: str) -> Sort:
    return next(key for key in SORTS if key == sort.removeprefix("-"))


def _after(sort: str, key: Sort, cursor: str) -> tuple[int | str, str]:
    of, value, name = cursors.read(cursor, str, str if key == "name" else int, str)
    if of != sort:
        raise cursors.bad()
    return value, str(name)


def _next(sort: str, last: Document) -> str:
    key = _sort_key(sort)
    field = SORTS[key].removeprefix("shown.")
    return cursors.write(sort, last["_id"] if key == "name" else last["shown"][field], last["_id"])
