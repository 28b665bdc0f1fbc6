"""Incidents as JSON: what may be done about one, and what happened in it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Annotated, NamedTuple

from fastapi import Body, Query
from pydantic import AwareDatetime

from services.api.context import Api, ApiContext
from services.api.http.models import (
    Acknowledged,
    AckWanted,
    CurrentIncident,
    IncidentEventItem,
    IncidentItem,
    IncidentPage,
    IncidentWhole,
    MuteWanted,
    NoteWanted,
    Service,
)
from services.api.http.requests import read_cursor, tags_asked_for, write_cursor
from services.api.http.routing import Actor, Limit, NameInPath, reading, writing
from services.api.projections.documents import Document
from services.api.projections.store import DELETED
from shared.contracts.events import (
    NAME_RULE_IN_WORDS,
    ServiceAcknowledged,
    ServiceReleased,
    micros,
    moment,
    valid_name,
)
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem, documented

_ACKNOWLEDGED: str = ServiceAcknowledged.model_fields["type"].default
_RELEASED: str = ServiceReleased.model_fields["type"].default

writes, reads = writing("incidents"), reading("incidents")


# --- what may be done


@writes.post("/service/{name}/ack", responses=documented(404, 409, 413, 422))
async def acknowledge_incident(
    name: NameInPath,
    api: Api,
    actor: Actor,
    wanted: Annotated[AckWanted | None, Body(examples=[{"note": "on my way"}])] = None,
) -> Service:
    """Somebody has it in hand: reminders and escalations stop until it is alive again. 409 where it has no
    incident, or somebody else has it, who is named in `by`."""
    note = wanted.note if wanted else None
    return api.present(await api.incidents.acknowledge(name, note, actor), with_keys=True)


@writes.delete("/service/{name}/ack", responses=documented(404, 409, 422))
async def release_incident(name: NameInPath, api: Api, actor: Actor) -> Service:
    """Nobody has it in hand any more, whoever had. 409 where it has no incident."""
    return api.present(await api.incidents.release(name, actor), with_keys=True)


@writes.post("/service/{name}/mute", responses=documented(404, 409, 413, 422))
async def mute_service(
    name: NameInPath, wanted: Annotated[MuteWanted, Body(examples=[{"for": "2h"}])], api: Api, actor: Actor
) -> Service:
    """Its changes are recorded and sent to nobody. What is still down at the end is sent then. `until_alive`:
    409 where it has no incident."""
    return api.present(await api.incidents.mute(name, wanted, actor), with_keys=True)


@writes.delete("/service/{name}/mute", responses=documented(404, 422))
async def unmute_service(name: NameInPath, api: Api, actor: Actor) -> Service:
    """End its mute, whoever set it."""
    return api.present(await api.incidents.unmute(name, actor), with_keys=True)


@writes.post("/incident/{id}/notes", status_code=201, responses=documented(404, 413, 422))
async def add_note(
    id: str,
    wanted: Annotated[NoteWanted, Body(examples=[{"text": "the disk was full"}])],
    api: Api,
    actor: Actor,
) -> IncidentWhole:
    """Write something down about an incident, also about one that is over."""
    rows = await _rows(api, id)
    await api.incidents.note(rows[0]["name"], id, wanted.text, actor)
    return await whole(api, id)


# --- what happened


@reads.get("/incidents", responses=documented(422))
async def list_incidents(
    api: Api,
    tag: Annotated[list[str], Query(default_factory=list, description="Of services with all of these.")],
    open: Annotated[
        bool | None, Query(description="Only those that last, or only those that do not.")
    ] = None,
    service: Annotated[str, Query(max_length=200, description="Only of this one.")] = "",
    since: Annotated[
        AwareDatetime | None,
        Query(description="Only what began since then.", examples=["2026-11-01T12:00:00Z"]),
    ] = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> IncidentPage:
    """Incidents, newest first, also of services that are deleted by now, which have no tags."""
    if service and not valid_name(service):
        raise Problem(422, f"service: {NAME_RULE_IN_WORDS}")
    tags = tags_asked_for(tag, api.hub.index.has_tag)

    def wanted(name: str, began_at: datetime) -> bool:
        state = api.hub.index.get(name)
        is_ours = service in ("", name) and set(tags).issubset(state.tags if state else ())
        return is_ours and (since is None or began_at >= since)

    listed: list[_Found] = []
    async with aclosing(_open(api, cursor) if open else _begun(api, service, open, since, cursor)) as found:
        async for each in found:
            if wanted(each.item.service, each.item.began_at):
                listed.append(each)
                if len(listed) > limit:
                    break
    return IncidentPage(
        items=[await _ended(api, each.item, each.rows) for each in listed[:limit]],
        next=listed[limit - 1].cursor if len(listed) > limit else None,
    )


@reads.get("/incident/{id}", responses=documented(404))
async def get_incident(id: str, api: Api) -> IncidentWhole:
    """All that happened in an incident: changes, messages sent, who had it in hand, notes."""
    return await whole(api, id)


async def whole(api: ApiContext, id_: str) -> IncidentWhole:
    """An incident with all that happened in it. Problem 404."""
    rows = await _rows(api, id_)

    async def known() -> list[Document]:
        return rows

    item = await _ended(api, _of_row(rows[0]), known)
    events = [
        IncidentEventItem(
            seq=row["_id"],
            type=row["type"],
            at=moment(row["at"]),
            actor=row.get("actor"),
            data={key: value for key, value in row["data"].items() if key != "incident"},
        )
        for row in rows
    ]
    return IncidentWhole(**dict(item), events=events)


async def _rows(api: ApiContext, id_: str) -> list[Document]:
    rows = await api.store.live.incident(id_) if len(id_) <= 64 else []
    if not rows:
        raise Problem(404, "there is no such incident")
    return rows


class _Found(NamedTuple):
    """`cursor`: what follows it. `rows`: reads what happened in it."""

    item: IncidentItem
    cursor: str
    rows: Callable[[], Awaitable[list[Document]]]


async def _open(api: ApiContext, cursor: str | None) -> AsyncGenerator[_Found]:
    """Those that last, newest first."""
    found = sorted((-incident.began_at, state.name) for state, incident in api.hub.index.incidents())
    after = tuple(read_cursor(cursor, int, str)) if cursor else None
    for began, name in found:
        is_next = after is None or (began, name) > after
        if is_next and (state := api.hub.index.get(name)) and (item := _of_state(state)):
            yield _Found(item, write_cursor(began, name), partial(api.store.live.incident, item.id))


async def _begun(
    api: ApiContext, service: str, is_open: bool | None, since: datetime | None, cursor: str | None
) -> AsyncGenerator[_Found]:
    """All of which the beginning is kept, or (False) those that are over; the same."""
    before, next_ones = int(read_cursor(cursor, int)[0]) if cursor else None, dict[str, int]()
    async for row in api.store.live.incidents(service, before):
        rows = partial(api.store.live.incident_of, row, next_ones.get(row["name"]))
        next_ones[row["name"]] = row["_id"]
        if since and row["at"] < micros(since):
            return
        current = _current(api, row["name"])
        if is_open is None or not (current and current.id == row["begins"]):
            yield _Found(_of_row(row), write_cursor(row["_id"]), rows)


def _current(api: ApiContext, name: str) -> CurrentIncident | None:
    state = api.hub.index.get(name)
    return CurrentIncident.of(state) if state else None


def _of_state(state: ServiceState) -> IncidentItem | None:
    if (current := CurrentIncident.of(state)) is None:
        return None
    return IncidentItem(
        id=current.id,
        service=state.name,
        began_at=current.began_at,
        ended_at=None,
        acknowledged=current.acknowledged,
    )


def _of_row(row: Document) -> IncidentItem:
    began_at = datetime.fromisoformat(row["data"]["since"])
    return IncidentItem(
        id=row["begins"], service=row["name"], began_at=began_at, ended_at=None, acknowledged=None
    )


async def _ended(
    api: ApiContext, item: IncidentItem, read: Callable[[], Awaitable[list[Document]]]
) -> IncidentItem:
    """With how it ended and who had it, as far as it is not the current one. `read`: what happened in
    it."""
    current = _current(api, item.service)
    if current and current.id == item.id:
        lasts = (api.now() - item.began_at).total_seconds()
        return item.model_copy(update={"acknowledged": current.acknowledged, "seconds": max(0.0, lasts)})
    rows = await read()
    ends = (row for row in rows[1:] if row["data"].get("to") == "alive" or row["type"] == DELETED)
    end = next(ends, None)
    known: Acknowledged | None = None
    for row in rows:
        if row["type"] == _ACKNOWLEDGED:
            known = Acknowledged.model_validate(row["data"]["acknowledged"])
        elif row["type"] == _RELEASED:
            known = None
    if end is None:  # its end is not kept
        return item.model_copy(update={"acknowledged": known})
    since = end["data"].get("since")
    ended_at = datetime.fromisoformat(since) if since else moment(end["at"])
    seconds = max(0.0, (ended_at - item.began_at).total_seconds())
    return item.model_copy(update={"ended_at": ended_at, "seconds": seconds, "acknowledged": known})
