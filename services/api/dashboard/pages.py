"""Pages to look at: all services, one service, how to connect one, maintenance windows, the status page."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse

from services.api import channels
from services.api.context import Api, ApiContext
from services.api.dashboard import charts, editing
from services.api.dashboard import runs as drawn
from services.api.dashboard.login import may_view
from services.api.dashboard.rendering import ORDER, SECURED, page, templates
from services.api.healthchecks.checks import Timing, human_name, timing
from services.api.http.audit import audited
from services.api.http.auth import Role
from services.api.http.models import HeardItem, RunItem, Service
from services.api.http.requests import listed, tags_asked_for, write_cursor
from services.api.http.routing import NameInPath
from services.api.http.services import service_query
from services.api.projections.documents import Document
from services.api.queries import history, runs
from services.api.queries.coming import zone_hint
from services.api.queries.index import ServiceQuery
from services.api.settings import ApiSettings
from shared.contracts import schedules, thresholds, zones
from shared.contracts.channels import ChannelReport
from shared.contracts.configuration import StatusPage
from shared.contracts.events import MICRO, NAME_RULE_IN_WORDS, Outcome, Status, micros, moment, valid_name
from shared.contracts.routes import Route
from shared.domain import timeline
from shared.domain.service_state import ServiceState
from shared.domain.timeline import Mark
from shared.http.problems import Problem
from shared.messaging.errors import BrokerError

PAGE_ROWS = 100
DEAD_ROWS = 50
"""Dead services that are folded away on the first page."""
TAGS_SHOWN = 60
EVENTS_SHOWN = 30
TIMELINE_SHOWN = 50
AUDIT_ROWS = 50
MUTED_ROWS = 100
SAID_WITHIN = timedelta(minutes=1)
"""How long a page says that a test message was delivered."""
RUNS_DRAWN, RUNS_SHOWN = 100, 20
"""Runs in the chart, and in the list below it."""
SLICES = {"24h": 48, "7d": 84, "30d": 90, "90d": 90}
"""Slices of a bar, by its window: half an hour each in a day's."""

STATUS_PAGE_ROWS = 500
LONG_WINDOW_UP_TO = 50
"""Services of which the status page shows 90 days; of more it shows a day."""

router = APIRouter(dependencies=[Depends(may_view)], default_response_class=HTMLResponse)
public = APIRouter(default_response_class=HTMLResponse)


class Bar(NamedTuple):
    """A window of a service's past. `slices`: how many the pieces are made of."""

    pieces: list[charts.Piece]
    slices: int
    summary: str
    uptime: str


class Row(NamedTuple):
    service: Service
    counted_as: str
    bar: Bar
    maintenance: bool
    due: str
    """When it is due next, where it has a schedule and nothing is wrong with it."""


async def rows(api: ApiContext, names: Sequence[str], window: str) -> list[Row]:
    states = await api.store.live.named(names)
    marks = await api.past.marks([state.name for state in states], window)
    now = api.now()
    open_windows = api.maintenance.open(now)
    found = []
    for state in states:
        service, bar = api.present(state), _bar(api, state, window, marks[state.name])
        in_maintenance = any(each.is_about(service.name, service.tags) for each in open_windows)
        well = state.counted_as in (Status.ALIVE, Status.UNKNOWN)
        due = (
            drawn.clock(service.expected, now, _zone(api, service), api.settings.zone)
            if well and service.expected
            else ""
        )
        found.append(Row(service, state.counted_as, bar, in_maintenance, due))
    return found


def _due(api: ApiContext, service: Service) -> str:
    """When it is due next, in a word, if it ever is."""
    if service.expected is None:
        return ""
    return drawn.clock(service.expected, api.now(), _zone(api, service), api.settings.zone)


def _zone(api: ApiContext, service: Service) -> ZoneInfo:
    """That of its schedule; ours where it cannot be read any more."""
    try:
        return zones.zone(service.time_zone)
    except ValueError:
        return api.settings.zone


def _bar(api: ApiContext, state: ServiceState, window: str, marks: Sequence[Mark]) -> Bar:
    found, count = api.segments(state, window, marks), SLICES[window]
    seconds = timeline.spent(found)
    pieces = charts.bar(found, count, api.settings.zone)
    return Bar(pieces, count, charts.in_a_line(seconds), timeline.percent(timeline.uptime(seconds)))


# --- all services


@router.get("/")
async def overview(
    request: Request,
    api: Api,
    status: Annotated[list[str], Query(default_factory=list)],
    tag: Annotated[list[str], Query(default_factory=list)],
    q: Annotated[str, Query(max_length=200)] = "",
    bars: str = "24h",
    cursor: str | None = None,
) -> HTMLResponse:
    """All services, problems first."""
    index = api.hub.index
    statuses, tagged = listed(status), tags_asked_for(tag, index.has_tag)
    window = "90d" if bars == "90d" else "24h"
    here = {"status": statuses, "tag": tagged, "q": q, "bars": window}
    query = service_query(statuses, tagged, q, "status", PAGE_ROWS, cursor)
    not_dead = tuple(status for status in ORDER if status is not Status.DEAD)
    names, last, matching = index.page(query if statuses else replace(query, statuses=not_dead))
    dead: list[str] = []
    dead_total = 0
    if not statuses and not cursor:
        dead, _, dead_total = index.page(replace(query, statuses=(Status.DEAD,), limit=DEAD_ROWS))
    return page(
        request,
        "overview.html",
        rows=await rows(api, names, window),
        dead=await rows(api, dead, window),
        dead_total=dead_total,
        matching=matching + dead_total,
        here=here,
        all_tags=list(index.tags.items())[:TAGS_SHOWN],
        first_page=not cursor,
        next=_link(**here, cursor=write_cursor("status", *last)) if last else None,
        link=lambda **change: _link(**(here | change)),
    )


def _link(**query: Any) -> str:
    given = {key: value for key, value in query.items() if value and (key, value) != ("bars", "24h")}
    return f"/?{urlencode(given, doseq=True)}" if given else "/"


# --- one service


@router.get("/ui/service/{name}")
async def service(request: Request, name: NameInPath, api: Api, done: str = "") -> HTMLResponse:
    """One service: how it is, how it was, and what may be changed."""
    return await service_page(request, api, name, done=done)


async def service_page(
    request: Request,
    api: ApiContext,
    name: str,
    status: int = 200,
    refused: str = "",
    *,
    done: str = "",
    given: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> HTMLResponse:
    """`done`: what was done by the form that was sent from it; `refused`: why it was not; `given`: what had
    been filled into that form, by its name."""
    state, zone = await api.state(name), api.settings.zone
    service = api.present(state, with_keys=api.auth.role(request) is Role.ADMIN)
    found = await runs.runs(api.store.live, state, api.timetable(state), None, RUNS_DRAWN)
    its_runs = [RunItem.model_validate(run) for run in found]
    heard: list[HeardItem] = []
    with suppress(Problem, BrokerError):  # a page is better without its heartbeats than not at all
        heard = await history.heartbeats(api.link, name, state.registered_at, charts.COLUMNS + 1)
    marks = (await api.past.marks([name]))[name]
    events = await api.store.live.history(name, None, EVENTS_SHOWN)
    incident = await api.store.live.incident(service.incident.id) if service.incident else []
    badge_key = api.auth.badge_key(name)
    form = given.get("edit") or editing.shown(state)
    declared, now = state.declared_at is not None, api.now()
    zone_if_empty = service.time_zone if declared and service.schedule else api.settings.timezone
    set_ = service.schedule or "", service.time_zone
    typed = form.get("schedule") or set_[0], form.get("time_zone") or zone_if_empty
    due = editing.preview(*set_, service.expected - MICRO if service.expected else None)
    return page(
        request,
        "service.html",
        status,
        service=service,
        windows={window: _bar(api, state, window, marks) for window in SLICES},
        heard=heard,
        cadence=charts.cadence(heard, None if service.schedule else service.thresholds.silent_after, zone),
        durations=None if its_runs else charts.durations(heard, zone),
        runs=its_runs[:RUNS_SHOWN],
        more_runs=len(its_runs) > RUNS_SHOWN,
        run_chart_data=drawn.run_chart(its_runs[:RUNS_DRAWN], zone),
        too_late=lambda run: drawn.too_late(run.late_by, service.thresholds.silent_after),
        scheduled=await _scheduled(api, state, service, its_runs) if service.schedule else None,
        timeline=incident[-TIMELINE_SHOWN:],
        events=[(_when(row), row) for row in events[:EVENTS_SHOWN]],
        more_events=len(events) > EVENTS_SHOWN,
        maintenance=api.maintenance.all(api.now(), lambda each: each.is_about(name, service.tags)),
        of_reasons=_zone_of_reasons(api, service),
        badge_query=f"?key={badge_key}" if badge_key else "",
        done=done,
        refused=editing.by_labels(refused) if "edit" in given else refused,
        given=given,
        form=form,
        labels=editing.LABELS,
        changed_labels=editing.CHANGED,
        declared=declared,
        zone_if_empty=zone_if_empty,
        due=due,
        preview=editing.preview(*typed, now),
    )


def _zone_of_reasons(api: ApiContext, service: Service) -> str:
    """That of the times in reasons, as `Europe/Berlin (CET)`, where it is not that of the other times."""
    zone = _zone(api, service)
    return "" if zone == api.settings.zone else f"{zone.key} ({zones.in_zone(api.now(), zone):%Z})"


class Scheduled(NamedTuple):
    """What there is to see of a schedule. `next`: when it is due, in a word; `hint`: whether its zone seems
    wrong."""

    next: str
    calendar: drawn.Calendar
    hint: str


async def _scheduled(
    api: ApiContext, state: ServiceState, service: Service, its_runs: Sequence[RunItem]
) -> Scheduled:
    now, zone = api.now(), _zone(api, service)
    today = zones.in_zone(now, zone).date()
    since = micros(now - timedelta(days=drawn.DAYS))
    days = await api.last_days.get(api.store.live, state, since, micros(now), zone)
    came = (
        at for run in its_runs if run.outcome is not Outcome.MISSED and (at := run.started_at or run.ended_at)
    )
    hint = zone_hint(schedules.stored(state.schedule or "", service.time_zone), came)
    return Scheduled(
        _due(api, service),
        drawn.calendar(days, today, service.thresholds.silent_after, zone),
        "" if hint in (service.reason or "") else hint,
    )


def _when(row: Document) -> datetime:
    """A change of status counts from when it was due; the rest from when it was stored."""
    since = row["data"].get("since")
    return datetime.fromisoformat(since) if since else moment(row["at"])


@router.get("/ui/service/{name}/delete")
async def ask_to_delete(request: Request, name: NameInPath, api: Api) -> HTMLResponse:
    return page(request, "delete.html", service=api.present(await api.state(name)))


@router.get("/ui/service/{name}/ping-key")
async def ask_to_renew_ping_key(request: Request, name: NameInPath, api: Api) -> HTMLResponse:
    return page(request, "ping_key.html", service=api.present(await api.state(name)))


# --- the others


@router.get("/ui/maintenance")
async def maintenance(request: Request, api: Api) -> HTMLResponse:
    """Maintenance windows: those there are, and a form for another."""
    return await maintenance_page(request, api, {})


async def maintenance_page(
    request: Request, api: ApiContext, given: Mapping[str, str], status: int = 200, refused: str = ""
) -> HTMLResponse:
    """`given`: what was filled into a form that was refused."""
    windows = api.maintenance.all(api.now())
    return page(request, "maintenance.html", status, windows=windows, refused=refused, given=given)


@router.get("/ui/audit")
async def audit(
    request: Request,
    api: Api,
    actor: Annotated[str, Query(max_length=300)] = "",
    service: Annotated[str, Query(max_length=200)] = "",
    cursor: str | None = None,
) -> HTMLResponse:
    """Who changed what."""
    actor, service = actor.strip(), service.strip()
    wrong = bool(service) and not valid_name(service)
    found = await audited(api, actor, "" if wrong else service, 0, AUDIT_ROWS, cursor)
    here = {key: value for key, value in (("actor", actor), ("service", service)) if value}
    return page(
        request,
        "audit.html",
        422 if wrong else 200,
        refused=NAME_RULE_IN_WORDS if wrong else "",
        rows=[] if wrong else found.items,
        here=here,
        labels=editing.CHANGED,
        next=None if wrong or not found.next else f"/ui/audit?{urlencode(here | {'cursor': found.next})}",
    )


@router.get("/ui/notifications")
async def notifications(request: Request, api: Api, done: str = "", channel: str = "") -> HTMLResponse:
    """The channels, and how they stand: problems first."""
    return await notifications_page(request, api, channel, done=done)


async def notifications_page(
    request: Request, api: ApiContext, channel: str, status: int = 200, refused: str = "", *, done: str = ""
) -> HTMLResponse:
    """`done`: what was done to this channel by the form that was sent from it; `refused`: why it was not."""
    found: list[ChannelReport] = []
    away = ""
    try:
        found = await channels.all_channels(api.link)
    except Problem as problem:
        away = problem.detail
    is_admin, now = api.auth.role(request) is Role.ADMIN, micros(api.now())
    meant = next((each for each in found if each.name == channel), None)
    return page(
        request,
        "notifications.html",
        status,
        channels=sorted(found, key=lambda each: (each.off_since is None, not each.is_failing)),
        away=away,
        invitation=await channels.invitation(api.link) if found and is_admin else None,
        muted=[(it.name, mute) for it in api.hub.index if (mute := it.muted(now))],
        muted_rows=MUTED_ROWS,
        routes=_as_document(api.routes.shown().routes),
        said=_said_of_channel(meant, done, api.now()) if meant else "",
        refused=f"{channel}: {refused}" if refused and not away else "",
    )


def _as_document(routes: Sequence[Route]) -> str:
    """As it may be sent back, a route on each line; empty if there are none."""
    lines = [json.dumps(route.model_dump(mode="json"), ensure_ascii=False) for route in routes]
    return '{"routes": [\n  ' + ",\n  ".join(lines) + "\n]}" if lines else ""


def _said_of_channel(channel: ChannelReport, done: str, now: datetime) -> str:
    """What was done, if it shows: the address of a page proves nothing."""
    delivered = channel.last_delivered
    if done == "test" and delivered and now - delivered < SAID_WITHIN:
        return f"The test message to {channel.name} was delivered."
    return f"{channel.name} is on." if done == "on" and not channel.off_since else ""


class Snippet(NamedTuple):
    id: str
    title: str
    note: str
    text: str


PING_KEY = "YOUR_PING_KEY"
"""In the place of a ping key that the reader may not see, or that there is not yet."""


NATS_SERVER = "YOUR_NATS_SERVER"


def nats_server(settings: ApiSettings) -> str:
    """The broker's address, where senders can be expected to have the same one: with a user in it, it is for
    this service alone."""
    return NATS_SERVER if any("@" in url for url in settings.nats_url) else ",".join(settings.nats_url)


def snippets(
    ingest_url: str,
    name: str,
    token: bool,
    time_zone: str = "UTC",
    known: tuple[ServiceState, Timing] | None = None,
    *,
    ping_key: str | None = None,
    public_url: str = "",
    nats_server: str = NATS_SERVER,
) -> list[Snippet]:
    """How to send heartbeats of this name. `token`: they need one, of which the reader knows the value;
    `time_zone`: the registry's; `known`: the service, if it is there, and when it is due: no line changes
    what is set of it; `public_url`: the API's, where it is another."""
    base = ingest_url.rstrip("/")
    state, its = known or (None, None)
    if state and not (state.schedule or state.every or state.silent_after or state.down_after):
        its = None  # nothing is set of when it is due
    lines = (its.schedule or "").splitlines() if its else []
    text = templates.get_template("snippets.txt").render(
        base=base,
        dsn=base.replace("://", f"://{'YOUR_INGEST_TOKEN' if token else 'public'}@", 1) + "/1",
        name=name,
        ping_key=ping_key or PING_KEY,
        public_url=(public_url or ingest_url).rstrip("/"),
        time_zone=time_zone,
        own_zone=state.time_zone if state else None,
        exists=state is not None,
        check=human_name(state) if state else name,
        tags=list(state.tags) if state else [],
        description=state.description if state else "",
        its=its,
        crontab=lines[0] if len(lines) == 1 and schedules.is_cron(lines[0]) else None,
        token=token,
        nats_server=nats_server,
    )
    _, *written = text.split("=== ")
    found = []
    for each in written:
        head, _, text = each.partition("\n")
        id_, title, note = (part.strip() for part in head.split("|"))
        found.append(Snippet(id_, title, note, text.strip()))
    return found


@router.get("/ui/connect")
async def connect(request: Request, api: Api, name: str = "my-service") -> HTMLResponse:
    """How to send heartbeats."""
    good = valid_name(name)
    token = api.settings.asks_ingest_token
    state = api.hub.index.get(name)
    ping_key = state.ping_key if state and api.auth.role(request) is Role.ADMIN else None
    return page(
        request,
        "connect.html",
        200 if good else 422,
        name=name,
        refused="" if good else NAME_RULE_IN_WORDS,
        snippets=snippets(
            api.settings.ingest_url,
            name if good else "my-service",
            token,
            api.settings.timezone,
            (state, timing(state, api.settings.thresholds, api.settings.timezone)) if state else None,
            ping_key=ping_key,
            public_url=api.settings.public_url,
            nats_server=nats_server(api.settings),
        ),
        ping_key=ping_key,
        five_minutes=thresholds.of_interval(timedelta(minutes=5)),
        longest_grace=thresholds.LONGEST_GRACE,
        of_schedule=thresholds.OF_SCHEDULE,
        token=token,
    )


# --- what everybody may see


@public.get("/status")
async def status_page(request: Request, api: Api) -> HTMLResponse:
    """The services that REGISTRY_STATUS_PAGE names."""
    if not api.settings.status_page:
        raise Problem(404, "there is no status page here (REGISTRY_STATUS_PAGE)")
    api.check_caught_up()
    made = await api.status_pages[""].get(lambda: _status_page(request, api))
    return HTMLResponse(made, headers=SECURED)


@public.get("/status/{path}")
async def named_status_page(request: Request, path: str, api: Api) -> HTMLResponse:
    """A status page of the configuration: the services of its groups."""
    api.check_caught_up()
    if (wanted := api.maintenance.configuration.stored.pages.get(path)) is None:
        api.status_pages.pop(path, None)
        raise Problem(404, "there is no such status page")
    made = await api.status_pages[path].get(lambda: _named_status_page(request, api, wanted))
    return HTMLResponse(made, headers=SECURED)


async def _status_page(request: Request, api: ApiContext) -> str:
    names = _with_tags(api, api.settings.status_page)
    return await _made(request, api, "", {"": names})


async def _named_status_page(request: Request, api: ApiContext, wanted: StatusPage) -> str:
    groups = dict[str, set[str]]()
    for group in wanted.groups:
        named = {name for name in group.services if api.hub.index.get(name)}
        groups.setdefault(group.name, set()).update(named | _with_tags(api, group.tags))
    return await _made(request, api, wanted.title, groups)


def _with_tags(api: ApiContext, tags: Sequence[str]) -> set[str]:
    """The services with any of them; `*`: all."""
    queries = [ServiceQuery(tags=() if tag == "*" else (tag,), limit=STATUS_PAGE_ROWS) for tag in tags]
    return {name for query in queries for name in api.hub.index.page(query)[0]}


async def _made(request: Request, api: ApiContext, title: str, groups: Mapping[str, set[str]]) -> str:
    """A status page with these services by the names of their groups."""
    names = sorted(set().union(*groups.values()))[:STATUS_PAGE_ROWS]
    long = len(names) <= LONG_WINDOW_UP_TO
    shown = await rows(api, names, "90d" if long else "24h")
    shown.sort(key=lambda row: (ORDER.index(row.counted_as), row.service.name))
    grouped = {name: [row for row in shown if row.service.name in its] for name, its in groups.items()}
    return bytes(
        page(request, "status.html", rows=shown, groups=grouped, title=title, long=long).body
    ).decode()


@public.get("/favicon.svg")
async def favicon(down: Annotated[int, Query(ge=0)] = 0) -> Response:
    """A dot, or how many are down."""
    picture = templates.get_template("favicon.svg").render(down="99+" if down > 99 else down)
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(picture, media_type="image/svg+xml", headers=headers)
