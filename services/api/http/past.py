"""One service's past as JSON: its history, its heartbeats, its uptime."""

from collections.abc import Collection, Sequence

from services.api.context import Api, ApiContext
from services.api.http.models import HeardPage, HistoryItem, HistoryPage, Seconds, Uptime
from services.api.http.requests import read_cursor, write_cursor
from services.api.http.routing import Limit, NameInPath, UptimeWindow, reading
from services.api.queries import history
from services.api.queries.past import WINDOWS
from shared.contracts.events import micros, moment
from shared.domain import timeline
from shared.domain.service_state import ServiceState
from shared.domain.timeline import Mark, Segment
from shared.http.problems import documented

reads = reading("services")


@reads.get("/service/{name}/events", responses=documented(404, 422))
async def list_service_events(
    name: NameInPath, api: Api, limit: Limit = 50, cursor: str | None = None
) -> HistoryPage:
    """What happened to a service, newest first."""
    await api.state(name)
    before = int(read_cursor(cursor, int)[0]) if cursor else None
    rows = await api.store.live.history(name, before, limit)
    return HistoryPage(
        items=[
            HistoryItem(seq=row["_id"], type=row["type"], at=moment(row["at"]), data=row["data"])
            for row in rows[:limit]
        ],
        next=write_cursor(rows[limit - 1]["_id"]) if len(rows) > limit else None,
    )


@reads.get("/service/{name}/heartbeats", responses=documented(404, 422))
async def list_service_heartbeats(name: NameInPath, api: Api, limit: Limit = 50) -> HeardPage:
    """Its last heartbeats, newest first, as far as the broker keeps them (REGISTRY_HEARTBEATS_KEPT)."""
    registered_at = (await api.state(name)).registered_at
    return HeardPage(items=await history.heartbeats(api.link, name, registered_at, limit))


@reads.get("/service/{name}/uptime", responses=documented(404, 422))
async def get_service_uptime(name: NameInPath, api: Api, window: UptimeWindow = "24h") -> Uptime:
    """How it was in a window: seconds in each status, and what nobody can know apart."""
    found = await segments_in(api, await api.state(name), window)
    seconds = timeline.spent(found)
    known = next((segment.start for segment in found if segment.state != timeline.NOTHING), found[-1].end)
    return Uptime(
        window=window,
        uptime=timeline.uptime(seconds),
        from_=moment(known),
        to=moment(found[-1].end),
        seconds=Seconds(**seconds),
    )


async def marks_in(api: ApiContext, names: Collection[str], window: str) -> dict[str, Sequence[Mark]]:
    """What marks each service in a window of `WINDOWS`, and perhaps before it. The last day is in memory."""
    if window == "24h":
        return {name: api.hub.recent_marks(name) for name in names}
    return await api.past.marks(names)


async def segments_in(api: ApiContext, state: ServiceState, window: str) -> list[Segment]:
    """What a service was in a window of `WINDOWS`."""
    return segments(api, state, window, (await marks_in(api, [state.name], window))[state.name])


def segments(api: ApiContext, state: ServiceState, window: str, marks: Sequence[Mark]) -> list[Segment]:
    """The same, from its marks."""
    at = api.now()
    now = timeline.Now(state.status, state.paused, state.registered_at, micros(at))
    gaps = api.gaps_until(now.at)
    begins = api.hub.begins.get(state.name, 0)
    return timeline.segments(marks, now, micros(at - WINDOWS[window]), gaps, begins)
