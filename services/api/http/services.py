"""Services as JSON: one of them and its past, a list of them, and the commands that change one."""

from typing import Annotated

from fastapi import Body, Query, Response
from pydantic import AwareDatetime

from services.api.context import Api, ApiContext
from services.api.http import models
from services.api.http.models import EXAMPLES, Service, ServicePage, Summary
from services.api.http.requests import bad_cursor, listed, read_cursor, tags_asked_for, write_cursor
from services.api.http.routing import (
    Actor,
    IfMatch,
    Limit,
    NameInPath,
    UptimeWindow,
    WithKeys,
    reading,
    writing,
)
from services.api.projections.documents import PROBLEMS_FIRST
from services.api.queries import history
from services.api.queries.index import SORTS, Place, ServiceQuery, Sort
from shared.contracts.events import Status, micros, moment
from shared.contracts.wanted import NewService, Wanted
from shared.domain import digest, timeline
from shared.domain.service_state import PAUSED, ServiceState
from shared.http.problems import Problem, documented

WORST = (Status.DOWN, Status.SILENT, Status.DEAD)

_SORTING = r"^-?(name|status|since|last_heartbeat)$"
_LISTED = "Repeat it, or put commas between."

writes, reads = writing("services"), reading("services")


def _answer(api: ApiContext, state: ServiceState, response: Response, *, with_keys: bool = True) -> Service:
    service = api.present(state, with_keys=with_keys)
    response.headers["ETag"] = f'"{service.version}"'
    return service


# --- commands


@writes.post("/service", status_code=201, responses=documented(409, 413, 422, 429))
async def create_service(
    wanted: Annotated[NewService, Body(examples=[EXAMPLES["new_service"]])],
    response: Response,
    api: Api,
    actor: Actor,
) -> Service:
    """Register a service. 409 if it exists."""
    state = await api.commands.create(wanted, actor=actor)
    response.headers["Location"] = f"/service/{wanted.name}"
    return _answer(api, state, response)


@writes.put("/service/{name}", responses=documented(412, 413, 422, 429) | {201: {"model": Service}})
async def replace_service(
    name: NameInPath,
    wanted: Annotated[Wanted, Body(examples=[EXAMPLES["new_service"]])],
    response: Response,
    api: Api,
    actor: Actor,
    if_match: IfMatch = None,
) -> Service:
    """Set the whole configuration, of a new service as well; what is absent becomes the default."""
    _check_same_name(name, wanted)
    state, created = await api.commands.replace(name, wanted, if_match, actor=actor)
    if created:
        response.status_code = 201
        response.headers["Location"] = f"/service/{name}"
    return _answer(api, state, response)


@writes.patch("/service/{name}", responses=documented(404, 412, 413, 422))
async def change_service(
    name: NameInPath,
    wanted: Annotated[Wanted, Body(examples=[{"silent_after": "5m", "down_after": None}])],
    response: Response,
    api: Api,
    actor: Actor,
    if_match: IfMatch = None,
) -> Service:
    """Change what is given; null sets it back to the default."""
    _check_same_name(name, wanted)
    return _answer(api, await api.commands.merge(name, wanted, if_match, actor=actor), response)


@writes.delete("/service/{name}", status_code=204, responses=documented(404, 412, 422))
async def delete_service(name: NameInPath, api: Api, actor: Actor, if_match: IfMatch = None) -> None:
    """Forget a service. Its next heartbeat registers it anew."""
    await api.commands.delete(name, if_match, actor=actor)


@writes.post("/service/{name}/pause", responses=documented(404, 412, 422))
async def pause_service(
    name: NameInPath, response: Response, api: Api, actor: Actor, if_match: IfMatch = None
) -> Service:
    """Stop evaluating it. Its heartbeats still count."""
    return _answer(api, await api.commands.set_paused(name, True, if_match, actor=actor), response)


@writes.post("/service/{name}/resume", responses=documented(404, 412, 422))
async def resume_service(
    name: NameInPath, response: Response, api: Api, actor: Actor, if_match: IfMatch = None
) -> Service:
    """Evaluate it again. What its newest heartbeat said meanwhile counts as of now."""
    return _answer(api, await api.commands.set_paused(name, False, if_match, actor=actor), response)


@writes.post("/service/{name}/ping-key", responses=documented(404, 412, 422))
async def renew_ping_key(
    name: NameInPath, response: Response, api: Api, actor: Actor, if_match: IfMatch = None
) -> Service:
    """Give it another ping key. The one it had ends, its aliases stay."""
    return _answer(api, await api.commands.renew_ping_key(name, if_match, actor=actor), response)


def _check_same_name(name: str, wanted: Wanted) -> None:
    if wanted.name not in (None, name):
        raise Problem(422, f"name: the path says {name}, the body {wanted.name}")


# --- reads


@reads.get("/service/{name}", responses=documented(404, 422))
async def get_service(
    name: NameInPath,
    response: Response,
    api: Api,
    with_keys: WithKeys,
    at: Annotated[
        AwareDatetime | None,
        Query(
            description="A moment in the past, to see it as it was then.", examples=["2026-11-01T12:00:00Z"]
        ),
    ] = None,
) -> Service:
    """One service as it is now, or as it was at a moment."""
    if at is None:
        return _answer(api, await api.state(name), response, with_keys=with_keys)
    state = await history.as_of(api.link, name, at)
    if state is None:
        raise Problem(404, f"there was no service {name} then")
    return api.present(state, at)


@reads.get("/services", responses=documented(422))
async def list_services(
    api: Api,
    with_keys: WithKeys,
    status: Annotated[
        list[str],
        Query(
            default_factory=list,
            description=f"Any of these; what is paused is `paused` and nothing else. {_LISTED}",
            examples=[["down"]],
        ),
    ],
    tag: Annotated[list[str], Query(default_factory=list, description=f"All of these. {_LISTED}")],
    q: Annotated[str, Query(max_length=200, description="Part of the name or the description.")] = "",
    sort: Annotated[str, Query(pattern=_SORTING, description="With '-' in front: reversed.")] = "name",
    limit: Limit = 50,
    cursor: str | None = None,
) -> ServicePage:
    """A page of services. A service that stays as it is appears exactly once, whatever else changes."""
    index = api.hub.index
    query = service_query(listed(status), tags_asked_for(tag, index.has_tag), q, sort, limit, cursor)
    names, last, total = index.page(query)
    return ServicePage(
        items=[api.present(state, with_keys=with_keys) for state in await api.store.live.named(names)],
        next=write_cursor(sort, *last) if last else None,
        total=total,
    )


@reads.get("/summary")
async def get_summary(api: Api, with_keys: WithKeys) -> Summary:
    """How many are in which status, the worst of them, and what the next digest would say."""
    index, now = api.hub.index, api.now()
    zone, digest_time = api.settings.zone, api.settings.digest_time
    names, *_ = index.page(ServiceQuery(statuses=WORST, sort="status", limit=10))
    gaps, runs = api.gaps_until(micros(now)), await api.last_runs()
    summed = api.hub.digest_at(now, gaps, runs, api.beside(now))
    return Summary(
        counts=summed.counts,
        paused=summed.paused,
        muted=summed.muted,
        maintenance=summed.maintenance,
        total=len(index),
        worst=[api.present(state, with_keys=with_keys) for state in await api.store.live.named(names)],
        next_digest=models.NextDigest(
            at=digest.next_digest_at(now, zone, digest_time) if digest_time else None,
            text=digest.plain(summed, zone),
        ),
    )


# --- the past of one


@reads.get("/service/{name}/events", responses=documented(404, 422))
async def list_service_events(
    name: NameInPath, api: Api, limit: Limit = 50, cursor: str | None = None
) -> models.HistoryPage:
    """What happened to a service, newest first."""
    await api.state(name)
    before = int(read_cursor(cursor, int)[0]) if cursor else None
    rows = await api.store.live.history(name, before, limit)
    return models.HistoryPage(
        items=[
            models.HistoryItem(
                seq=row["_id"],
                type=row["type"],
                at=moment(row["at"]),
                data=row["data"],
                changed=row.get("changed", []),
                actor=row.get("actor"),
                changes=row.get("changes", []),
            )
            for row in rows[:limit]
        ],
        next=write_cursor(rows[limit - 1]["_id"]) if len(rows) > limit else None,
    )


@reads.get("/service/{name}/heartbeats", responses=documented(404, 422))
async def list_service_heartbeats(name: NameInPath, api: Api, limit: Limit = 50) -> models.HeardPage:
    """Its last heartbeats, newest first, as far as the broker keeps them (REGISTRY_HEARTBEATS_KEPT)."""
    registered_at = (await api.state(name)).registered_at
    return models.HeardPage(items=await history.heartbeats(api.link, name, registered_at, limit))


@reads.get("/service/{name}/uptime", responses=documented(404, 422))
async def get_service_uptime(name: NameInPath, api: Api, window: UptimeWindow = "24h") -> models.Uptime:
    """How it was in a window: seconds in each status, and what nobody can know apart."""
    found = await api.segments_of(name, window)
    seconds = timeline.spent(found)
    known = next((segment.start for segment in found if segment.state != timeline.NOTHING), found[-1].end)
    return models.Uptime(
        window=window,
        uptime=timeline.uptime(seconds),
        from_=moment(known),
        to=moment(found[-1].end),
        seconds=models.Seconds(**seconds),
    )


# --- what a list is asked for


def service_query(
    statuses: list[str], tags: list[str], text: str, sort: str, limit: int, cursor: str | None
) -> ServiceQuery:
    """What a list is asked for. Problem 422 for a status, a text or a cursor that cannot be."""
    if wrong := next((status for status in statuses if status not in PROBLEMS_FIRST), None):
        raise Problem(422, f"status: {wrong[:50]!r} is none of {', '.join([*Status, PAUSED])}")
    if "\0" in text:
        raise Problem(422, "q: no name or description has a NUL in it")
    key: Sort = next(key for key in SORTS if key == sort.removeprefix("-"))
    after = _place(sort, key, cursor) if cursor else None
    return ServiceQuery(statuses, tags, text, key, sort.startswith("-"), after, limit)


def _place(sort: str, key: Sort, cursor: str) -> Place:
    of, value, name = read_cursor(cursor, str, str if key == "name" else int, str)
    if of != sort:
        raise bad_cursor()
    return value, str(name)
