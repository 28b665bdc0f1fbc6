"""The dashboard: pages made on the server, which work without scripts and load nothing from elsewhere."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from services.api.commands import existing
from services.api.dashboard import charts
from services.api.dashboard.snippets import snippets
from services.api.http import page_cursors, tags
from services.api.http.auth import Role
from services.api.http.models import Service, Wanted, presenter
from services.api.http.requests import NameInPath, listed
from services.api.http.services import Parts, marks_of, segments, selection
from services.api.projections.documents import Document, micros, moment
from services.api.queries import history
from services.api.queries.index import ServiceQuery
from services.api.queries.past import CachedFor
from shared.contracts import durations, thresholds, zones
from shared.contracts.events import NAME_RULE_IN_WORDS, Status, valid_name
from shared.contracts.heartbeats import shortened
from shared.contracts.maintenance import Window
from shared.domain import digest, timeline
from shared.domain.timeline import Mark
from shared.http import bodies, problems
from shared.http.problems import Problem, explain
from shared.messaging.errors import BrokerError

PAGE_ROWS = 100
DEAD_ROWS = 50
"""Dead services that stand folded away on the first page."""
STATUS_AGE = 1.0
"""Seconds for which everybody is given the same status page: it is made without a token."""
BAR_SLICES = 48
"""Slices of a day's bar: half an hour each."""

ORDER = (Status.DOWN, Status.SILENT, Status.UNKNOWN, Status.ALIVE, Status.DEAD)
SHAPES = {
    Status.DOWN: "▼",
    Status.SILENT: "◆",
    Status.UNKNOWN: "○",
    Status.ALIVE: "●",
    Status.DEAD: "✕",
}
"""A shape per status, because colour alone tells some people nothing."""

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_SECURED = {"Content-Security-Policy": _POLICY}
_VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted((_HERE / "static").iterdir()))
).hexdigest()[:12]

_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_templates.filters |= {
    "duration": durations.write,
    "tags": tags.written,
    "excerpt": lambda text: shortened(text, 100, 200),
}
_templates.globals["duration_pattern"] = durations.FORM_PATTERN


_NOTHING: Mapping[str, Any] = {}
_DONE = {
    "edit": "Saved.",
    "pause": "Paused: it is not judged.",
    "resume": "Resumed: its next heartbeat starts it afresh.",
    "maintenance": "In maintenance: its falls are not sent.",
}


class Row(NamedTuple):
    """A service in a list. `patience`: seconds from its last heartbeat until it falls further, if it may."""

    service: Service
    bar: list[charts.Piece]
    told: str
    uptime: str
    patience: float | None
    maintenance: bool


def install(app: FastAPI, parts: Parts) -> problems.Answer:
    """Add the pages to the app. Returns how its errors are answered."""
    link, store, board, commands, access, health, defaults, look, now, maintenance, _ = parts
    present = presenter(defaults, look.public_url)

    def page(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
        at, role = now(), access.role(request)
        known = role is not Role.NOBODY  # others learn nothing of the fleet, not even from the title
        counts = {status: board.roster.counts[status] if known else 0 for status in ORDER}

        def ago(since: datetime) -> str:
            return durations.spoken(at - since)

        html = _templates.get_template(template).render(
            content,
            ago=ago,
            banner=_banner(parts, at) if known else [],
            counts=counts,
            down=counts[Status.DOWN],
            form_key=access.form_key(request),
            headline=headline(counts, board.last_change, at),
            in_words=charts.in_words,
            local=lambda moment: digest.local(moment, look.zone),
            now=at,
            path=request.url.path,
            percent=charts.percent,
            role=role.value,
            guarded=access.guarded,
            seq=getattr(request.state, "seq", board.told) if known else 0,
            shapes=SHAPES,
            total=sum(counts.values()),
            version=_VERSION,
        )
        return HTMLResponse(html, status, headers=_SECURED)

    def reader(request: Request) -> None:
        request.state.seq = board.told  # before anything is read, so that nothing is missed
        if access.role(request) is Role.NOBODY:
            if "text/html" not in request.headers.get("accept", ""):
                access.may_read(request)
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            raise _Elsewhere(f"/ui/login?{urlencode({'next': here})}")
        if "projection" in health.missing:
            raise Problem(503, "still reading the record; see /readyz", retry_after=2)

    async def form(request: Request) -> Mapping[str, str]:
        """The fields of a form that may write."""
        fields = await _fields(request)
        access.may_submit(request, fields.get("form_key", ""))
        return fields

    status_text = CachedFor[str](STATUS_AGE)
    pages = APIRouter(
        dependencies=[Depends(reader)], default_response_class=HTMLResponse, include_in_schema=False
    )
    forms = APIRouter(include_in_schema=False)

    async def rows(names: Sequence[str], window: str) -> list[Row]:
        documents = await store.live.named(names)
        at = now()
        open_ = [it for it in maintenance.windows.by_id.values() if it.current(at)]
        marks = await marks_of(parts, [it["_id"] for it in documents], window)
        return [row(document, window, marks[document["_id"]], open_) for document in documents]

    def row(document: Document, window: str, marks: Sequence[Mark], open_: Sequence[Window]) -> Row:
        service = present(document)
        found = segments(parts, document, window, marks)
        share = timeline.uptime(timeline.spent(found))
        count = BAR_SLICES if window == "24h" else 90
        return Row(
            service,
            charts.bar(found, count, look.zone),
            charts.told(found, share),
            charts.percent(share),
            _patience(service),
            any(it.is_about(service.name, service.tags) for it in open_),
        )

    @pages.get("/")
    async def overview(
        request: Request,
        status: Annotated[list[str], Query(default_factory=list)],
        tag: Annotated[list[str], Query(default_factory=list)],
        q: Annotated[str, Query(max_length=200)] = "",
        bars: str = "24h",
        cursor: str | None = None,
    ) -> HTMLResponse:
        """All services, problems first."""
        statuses, tagged = listed(status), tags.asked_for(tag, board.roster.has_tag)
        window = "90d" if bars == "90d" else "24h"
        here = {"status": statuses, "tag": tagged, "q": q, "bars": window}
        wanted = selection(statuses, tagged, q, "status", PAGE_ROWS, cursor)
        living = tuple(status for status in ORDER if status is not Status.DEAD)
        first = wanted if statuses else replace(wanted, statuses=living)
        names, last, matching = board.roster.page(first)
        dead: list[str] = []
        more_dead = 0
        if not statuses and not cursor:
            rest = replace(wanted, statuses=(Status.DEAD,), limit=DEAD_ROWS)
            dead, _, more_dead = board.roster.page(rest)
        shown = await rows(names, window)
        return page(
            request,
            "overview.html",
            groups=_grouped(shown),
            dead=await rows(dead, window),
            dead_total=more_dead,
            matching=matching + more_dead,
            filtered=bool(statuses or tagged or q),
            statuses=statuses,
            tags=tagged,
            all_tags=list(board.roster.tags.items())[:60],
            q=q,
            window=window,
            first_page=not cursor,
            next=_link(**here, cursor=page_cursors.write("status", *last)) if last else None,
            link=lambda **change: _link(**(here | change)),
            ingest_url=look.ingest_url.rstrip("/"),
            ingest_token=look.ingest_token,
        )

    @pages.get("/ui/service/{name}")
    async def service(request: Request, name: NameInPath, done: str = "") -> HTMLResponse:
        """One service: how it is, how it was, and what may be changed."""
        return await service_page(request, name, said=_DONE.get(done, ""))

    async def service_page(
        request: Request, name: str, status: int = 200, said: str = "", refused: str = ""
    ) -> HTMLResponse:
        document = existing(name, await store.live.get(name))
        shown = present(document)
        life = document["config"]["registered_at"]
        heard = await _or_nothing(history.heartbeats(link, name, life, charts.COLUMNS + 1))
        windows = {}
        marks = (await marks_of(parts, [name], "90d"))[name]
        for window, count in (("24h", BAR_SLICES), ("7d", 84), ("30d", 90), ("90d", 90)):
            found = segments(parts, document, window, marks)
            seconds = timeline.spent(found)
            share = timeline.uptime(seconds)
            windows[window] = (
                charts.bar(found, count, look.zone),
                count,
                charts.told(found, share),
                share,
                seconds,
            )
        events = await store.live.history(name, None, 30)
        return page(
            request,
            "service.html",
            status,
            it=shown,
            patience=_patience(shown),
            windows=windows,
            heard=heard,
            cadence=charts.cadence(heard, shown.thresholds.silent_after, look.zone),
            durations=charts.durations(heard, look.zone),
            events=[(_when(row), told(row), row["data"].get("to")) for row in events[:30]],
            more_events=len(events) > 30,
            maintenance=maintenance.about(name, shown.tags, now()),
            badge_query=f"?key={key}" if (key := access.badge_key(name)) else "",
            public_url=look.public_url.rstrip("/"),
            said=said,
            refused=refused,
        )

    async def do(request: Request, name: str, what: str, command: Callable[[], Any]) -> Response:
        """Carry out a command; back to the service's page, with what was done (of `_DONE`) or why not."""
        try:
            await command()
        except ValidationError as error:
            why = explain(error.errors(include_input=False, include_url=False))
            return await service_page(request, name, 422, refused=why)
        except Problem as problem:
            if problem.status == 404:
                raise
            return await service_page(request, name, problem.status, refused=problem.detail)
        return RedirectResponse(f"/ui/service/{name}?done={what}", 303)

    @forms.post("/ui/service/{name}/edit")
    async def edit(
        request: Request, name: NameInPath, fields: Annotated[Mapping[str, str], Depends(form)]
    ) -> Response:
        def text(field: str) -> str:
            return str(fields.get(field, "")).strip()

        async def command() -> None:
            given: dict[str, Any] = {
                field: text(field) or None for field in ("silent_after", "down_after", "dead_after")
            }
            had = existing(name, await store.live.get(name))["config"]["tags"]
            if text("tags") != _one_line(tags.written(had)):  # else they stay, whatever stands in them
                given["tags"] = tuple(tags.read(text("tags")))
            wanted = Wanted(description=text("description"), notify="notify" in fields, **given)
            await commands.merge(name, wanted, text("version") or None)

        return await do(request, name, "edit", command)

    @forms.post("/ui/service/{name}/pause", dependencies=[Depends(form)])
    async def pause(request: Request, name: NameInPath) -> Response:
        return await do(request, name, "pause", lambda: commands.pause(name, None))

    @forms.post("/ui/service/{name}/resume", dependencies=[Depends(form)])
    async def resume(request: Request, name: NameInPath) -> Response:
        return await do(request, name, "resume", lambda: commands.resume(name, None))

    @pages.get("/ui/service/{name}/delete")
    async def ask_to_delete(request: Request, name: NameInPath) -> HTMLResponse:
        it = present(existing(name, await store.live.get(name)))
        return page(request, "delete.html", it=it)

    @forms.post("/ui/service/{name}/delete", dependencies=[Depends(form)])
    async def delete(name: NameInPath) -> Response:
        await commands.delete(name, None)
        return RedirectResponse("/", 303)

    @forms.post("/ui/service/{name}/maintenance")
    async def begin_maintenance(
        request: Request, name: NameInPath, fields: Annotated[Mapping[str, str], Depends(form)]
    ) -> Response:
        async def command() -> None:
            existing(name, await store.live.get(name))
            try:
                length = durations.parse(str(fields.get("duration", "")).strip())
            except ValueError as error:
                raise Problem(422, f"duration: {error}") from None
            at = now()
            window = Window(title="From its page", services=(name,), starts_at=at, ends_at=at + length)
            await maintenance.add(window, at)

        return await do(request, name, "maintenance", command)

    @pages.get("/ui/maintenance")
    async def maintenance_page(request: Request) -> HTMLResponse:
        """Maintenance windows: those there are, and a form for another."""
        return windows_page(request)

    def windows_page(
        request: Request, status: int = 200, refused: str = "", given: Mapping[str, Any] = _NOTHING
    ) -> HTMLResponse:
        return page(
            request,
            "maintenance.html",
            status,
            windows=maintenance.all(now()),
            refused=refused,
            given=given,
            zone=look.zone.key,
        )

    @forms.post("/ui/maintenance")
    async def add_window(request: Request, fields: Annotated[Mapping[str, str], Depends(form)]) -> Response:
        given = {key: str(value).strip() for key, value in fields.items() if str(value).strip()}
        try:
            wanted: dict[str, Any] = {
                key: given[key] for key in ("title", "cron", "time_zone", "duration") if key in given
            }
            wanted["services"] = listed([given.get("services", "")])
            wanted["tags"] = tags.read(given.get("tags", ""))
            for key in ("starts_at", "ends_at"):
                if key in given:
                    zone = zones.zone(given["time_zone"]) if "time_zone" in given else look.zone
                    entered = datetime.fromisoformat(given[key])
                    wanted[key] = entered if entered.tzinfo else entered.replace(tzinfo=zone)
            await maintenance.add(Window.model_validate(wanted), now())
        except ValidationError as error:
            why = explain(error.errors(include_input=False, include_url=False))
            return windows_page(request, 422, why, given)
        except (ValueError, KeyError) as error:
            return windows_page(request, 422, str(error), given)
        except Problem as problem:
            return windows_page(request, problem.status, problem.detail, given)
        return RedirectResponse("/ui/maintenance", 303)

    @forms.post("/ui/maintenance/{id}/delete", dependencies=[Depends(form)])
    async def delete_window(id: str) -> Response:
        await maintenance.delete(id, None)
        return RedirectResponse("/ui/maintenance", 303)

    @pages.get("/ui/connect")
    async def connect(request: Request, name: str = "my-service") -> HTMLResponse:
        """How to send heartbeats."""
        good = valid_name(name)
        chosen = name if good else "my-service"
        return page(
            request,
            "connect.html",
            200 if good else 422,
            name=name,
            refused="" if good else NAME_RULE_IN_WORDS,
            snippets=snippets(look.ingest_url, chosen, look.ingest_token),
            five_minutes=thresholds.of_interval(timedelta(minutes=5)),
            longest_grace=thresholds.LONGEST_GRACE,
            token=look.ingest_token,
        )

    @app.get("/ui/login", response_class=HTMLResponse, include_in_schema=False)
    async def login(request: Request, next: str = "/") -> Response:
        return page(request, "login.html", next=_ours(next), refused="")

    @app.post("/ui/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        fields = await _fields(request)
        target = _ours(fields.get("next", "/"))
        response: Response = RedirectResponse(target, 303)
        if access.log_in(request, fields.get("token", "").strip(), response):
            return response
        return page(request, "login.html", 401, next=target, refused="That token is not known here.")

    @app.post("/ui/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        access.same_session(request, (await _fields(request)).get("form_key", ""))
        response = RedirectResponse("/ui/login", 303)
        await access.log_out(request, response)
        return response

    @app.get("/status", response_class=HTMLResponse, include_in_schema=False)
    async def status_page(request: Request) -> HTMLResponse:
        """For everybody, with what REGISTRY_STATUS_PAGE names."""
        if not look.status_tags:
            raise Problem(404, "there is no status page here (REGISTRY_STATUS_PAGE)")
        if "projection" in health.missing:
            raise Problem(503, "still reading the record", retry_after=2)
        return HTMLResponse(await status_text.get(lambda: status_of(request)), headers=_SECURED)

    async def status_of(request: Request) -> str:
        names = sorted(
            {
                name
                for tag in look.status_tags
                for name in board.roster.page(ServiceQuery(tags=() if tag == "*" else (tag,), limit=500))[0]
            }
        )
        shown = await rows(names[:500], "90d" if len(names) <= 50 else "24h")
        shown.sort(key=lambda row: (ORDER.index(row.service.status), row.service.name))
        title = status_title([row.service.status for row in shown])
        return bytes(
            page(request, "status.html", rows=shown, title=title, long=len(names) <= 50).body
        ).decode()

    @app.get("/favicon.svg", include_in_schema=False)
    async def favicon(down: Annotated[int, Query(ge=0)] = 0) -> Response:
        """A dot, or how many are down."""
        picture = _templates.get_template("favicon.svg").render(down="99+" if down > 99 else down)
        headers = {"Cache-Control": "public, max-age=86400"}
        return Response(picture, media_type="image/svg+xml", headers=headers)

    @app.exception_handler(_Elsewhere)
    async def elsewhere(_: Request, error: _Elsewhere) -> Response:
        return RedirectResponse(error.url, 303)

    def answer(request: Request, problem: Problem) -> Response:
        """An error as a page for people, and as problem details for everybody else."""
        kinds = request.headers.get("accept", "")
        if "text/html" not in kinds or request.url.path.startswith(("/service/", "/badge/")):
            return problems.response(problem)
        response = page(request, "problem.html", problem.status, problem=problem)
        response.headers.update(problem.headers)
        return response

    app.include_router(pages)
    app.include_router(forms)
    return answer


class _Elsewhere(Exception):
    """The page is to be read after something else."""

    def __init__(self, url: str) -> None:
        self.url = url


def _grouped(rows: Sequence[Row]) -> list[tuple[Status, list[Row]]]:
    groups = ((status, [row for row in rows if row.service.status is status]) for status in ORDER)
    return [(status, group) for status, group in groups if group]


async def _fields(request: Request) -> dict[str, str]:
    """Of a form, as browsers send it. Problem 413 or 422 if it is larger than a form of ours, or none."""
    try:
        text = (await bodies.read(request)).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise Problem(422, "body: not a form of this page") from None


async def _or_nothing(heartbeats: Any) -> Any:
    """A page is better without its heartbeats than not at all."""
    try:
        return await heartbeats
    except (Problem, BrokerError):
        return []


def _ours(target: str) -> str:
    """A path of ours to go on to; the first page if it leads elsewhere."""
    parts = urlsplit(target)
    good = target.startswith("/") and not parts.netloc and not parts.scheme and "\\" not in target
    return quote(target, safe="/?&=%:,.~-_*") if good and not target.startswith("//") else "/"


def _one_line(text: str) -> str:
    """As a browser sends back what it was given to show in one line."""
    return text.replace("\r", "").replace("\n", "").strip()


def _link(**query: Any) -> str:
    given = {key: value for key, value in query.items() if value and (key, value) != ("bars", "24h")}
    return f"/?{urlencode(given, doseq=True)}" if given else "/"


def _patience(it: Service) -> float | None:
    """Seconds from the last heartbeat until the next fall."""
    length = {
        Status.ALIVE: it.thresholds.silent_after,
        Status.SILENT: it.thresholds.down_after,
    }.get(it.status)
    return length.total_seconds() if length and it.last_heartbeat and not it.paused else None


def _banner(parts: Parts, now: datetime) -> list[str]:
    """What is wrong with the registry itself."""
    said = []
    if missing := parts.health.missing:
        said.append(f"Not up to date: {', '.join(sorted(missing))} not reached.")
    deaf = micros(now) - parts.board.coverage.until
    if parts.board.coverage.until and deaf > parts.look.deaf_after:
        said.append(f"No heartbeats are taken in since {durations.spoken(timedelta(microseconds=deaf))}.")
    if parts.board.judged == 0:
        said.append("Nobody is judged: no monitor answers.")
    elif parts.board.judged and (late := micros(now) - parts.board.judged) > parts.look.deaf_after:
        said.append(f"Judging is suspended since {durations.spoken(timedelta(microseconds=late))}.")
    return said


def headline(counts: Mapping[Status, int], last_change: int, now: datetime) -> str:
    """The fleet in a sentence: `2 down, 1 silent, 41 alive, last change 3 s ago`."""
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    if not parts:
        return "No services yet"
    if last_change:
        parts.append(f"last change {durations.spoken(now - moment(last_change))} ago")
    return ", ".join(parts)


def status_title(statuses: Sequence[Status]) -> str:
    """What the public page says of all of them. Who was never heard is neither up nor down."""
    fallen = sum(status in (Status.DOWN, Status.DEAD) for status in statuses)
    unheard = sum(status is Status.UNKNOWN for status in statuses)
    if not statuses:
        return "Nothing to show yet"
    if fallen:
        return f"{fallen} of {len(statuses)} down"
    if unheard == len(statuses):
        return "Nothing was heard yet"
    return "Everything that was heard is up" if unheard else "Everything is up"


def _when(row: Document) -> datetime:
    """A change of status counts from when it fell due; the rest from when it was stored."""
    since = row["data"].get("since")
    return datetime.fromisoformat(since) if since else moment(row["at"])


def told(row: Document) -> str:
    """A line of the history as a sentence."""
    data = row["data"]
    match row["type"]:
        case "service.status_changed.v1":
            said = f"{data['from']} → {data['to']}: {data['reason']}"
            if data.get("duration") is not None:
                said += f", after {charts.in_words(data['duration'])}"
            if data.get("message"):
                said += f" - {shortened(data['message'], 100, 200)}"
            return said
        case "service.registered.v1":
            by = "its first heartbeat" if data["registered_by"] == "heartbeat" else "the API"
            return f"registered by {by}"
        case "service.updated.v1":
            return "configuration changed"
        case other:
            return str(other).removeprefix("service.").removesuffix(".v1").replace("_", " ")
