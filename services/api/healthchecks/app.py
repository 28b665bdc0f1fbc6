"""Healthchecks' Management API, v1 to v3: its paths and answers over our commands and read models."""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.api import channels
from services.api.context import ApiContext, context_of
from services.api.healthchecks import checks
from services.api.healthchecks.checks import Spec, Timing
from services.api.http import badges
from services.api.http.auth import Role, given_token
from services.api.projections.store import DatabaseUnavailable
from services.api.queries import history
from services.api.queries.index import ServiceQuery
from shared.contracts.events import Status, StatusChanged, micros, moment
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain.service_state import ServiceState
from shared.http import bodies, problems
from shared.http.problems import LIMIT_REACHED, Problem, explain
from shared.messaging import streams
from shared.messaging.errors import BrokerError
from shared.messaging.queries import counted, last_sequence, message_at

VERSIONS = (1, 2, 3)
PINGS_SHOWN = 1000
READ_AT_ONCE = 500
TRIES = 20
"""How often a name is sought for a new check, where others create some at the same time."""
_UP = frozenset({Status.ALIVE, Status.SILENT})
_LATEST = 2**33
"""Seconds since 1970."""
_WANTS_LIST = "py-healthchecks.io/"
"""The user agent of a client that reads the flips as a list, as Healthchecks' documentation shows them. Its
server answers an object, which other clients read."""


def mount(app: FastAPI, context: ApiContext) -> None:
    creating = asyncio.Lock()
    for version in VERSIONS:
        app.mount(f"/api/v{version}", _build(context, _Api(version, creating)))


def _build(context: ApiContext, api: "_Api") -> Starlette:
    paths: list[tuple[str, Callable[[Request], Awaitable[Response]], list[str]]] = [
        ("/checks", api.list_checks, ["GET"]),
        ("/checks", api.create, ["POST"]),
        ("/checks/{id}", api.read, ["GET"]),
        ("/checks/{id}", api.change, ["POST"]),
        ("/checks/{id}", api.delete, ["DELETE"]),
        ("/checks/{id}/pause", api.pause, ["POST"]),
        ("/checks/{id}/resume", api.resume, ["POST"]),
        ("/checks/{id}/pings", api.pings, ["GET"]),
        ("/checks/{id}/pings/{n}/body", api.ping_body, ["GET"]),
        ("/checks/{id}/flips", api.flips, ["GET"]),
        ("/channels", api.channels, ["GET"]),
        ("/badges", api.badges, ["GET"]),
        ("/badges/{key}/{states}/{tag:path}.{kind}", api.badge, ["GET"]),
        ("/status", api.status, ["GET"]),
        ("/metrics", api.metrics, ["GET"]),
    ]
    routes = [
        Route(path + slash, answer, methods=methods) for path, answer, methods in paths for slash in ("/", "")
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    app.state.context = context
    problems.install(app, _refusal)
    app.add_exception_handler(DatabaseUnavailable, _away)
    app.add_exception_handler(BrokerError, _away)
    return app


def _refusal(request: Request, problem: Problem) -> Response:
    """As Healthchecks says it: a rule that is broken is 400, a registry that is full is 403."""
    status, why = {422: 400, 413: 400}.get(problem.status, problem.status), problem.detail
    if problem.status == 401:
        why = "wrong api key" if given_token(request) else "missing api key"
    if problem.detail == LIMIT_REACHED:
        status = 403
    return JSONResponse({"error": why}, status, problem.headers)


async def _away(request: Request, error: Exception) -> Response:
    return _refusal(request, Problem(503, "not known to be stored, or not to be read now", retry_after=2))


class _Asked(NamedTuple):
    """Who asks for what. `body`: the JSON object that came, empty where there was none."""

    api: ApiContext
    actor: str
    writes: bool
    body: dict[str, Any]


async def _asked(request: Request, *, writes: bool = False) -> _Asked:
    """Problem 401, 403, 429 or 503 unless whoever asks may do so. The body is read before that only where no
    header has the key."""
    api, body = context_of(request), dict[str, Any]()
    if request.method == "POST":
        if request.headers.get("x-api-key") or request.headers.get("authorization"):
            _check(api, request, writes)
        body = await _body(request)
        request.state.api_key = str(body.get("api_key") or "")
    _check(api, request, writes)
    api.check_caught_up()
    return _Asked(api, api.auth.actor(request), api.auth.role(request) is Role.ADMIN, body)


def _check(api: ApiContext, request: Request, writes: bool) -> None:
    if writes:
        api.auth.may_write(request)
    else:
        api.auth.may_read(request)


async def _body(request: Request) -> dict[str, Any]:
    raw = await bodies.read(request)
    try:
        found = from_json(raw) if raw.strip() else {}
    except ValueError:
        raise Problem(400, "could not parse request body") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Problem(400, "json validation error: value is not an object")
    return found


def _spec(body: dict[str, Any]) -> Spec:
    try:
        return Spec.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> Problem:
    """Says the first rule that is broken, in Healthchecks' words where it has some."""
    first = error.errors()[0]
    field, *item = first["loc"]
    what = f"an item in '{field}'" if item else str(field)
    words = _WORDS.get("tz" if field == "tz" else first["type"])
    return Problem(400, f"json validation error: {what + words if words else explain([first])}")


_WORDS = {
    "string_too_long": " is too long",
    "string_type": " is not a string",
    "string_pattern_mismatch": " does not match pattern",
    "less_than_equal": " is too large",
    "greater_than_equal": " is too small",
    "int_type": " is not a number",
    "bool_type": " is not a boolean",
    "literal_error": " has unexpected value",
    "list_type": " is not an array",
    "tz": " is not a valid timezone",
}
"""By the kind of a broken rule, or by its field."""


class _Api:
    """The routes of one version."""

    def __init__(self, version: int, creating: asyncio.Lock) -> None:
        """`creating`: of all versions."""
        self._version, self._creating = version, creating

    # --- lists

    async def list_checks(self, request: Request) -> Response:
        asked = await _asked(request)
        index, query = asked.api.hub.index, request.query_params
        tags = tuple(dict.fromkeys(query.getlist("tag")))
        if wanted := query.get("slug"):
            names = [each.name for each in index.called(wanted) if set(tags).issubset(each.tags)]
        else:
            names = index.page(ServiceQuery(tags=tags, limit=len(index) or 1))[0]
        counts = await counted(asked.api.link, streams.HEARTBEATS, streams.ALL_HEARTBEATS)
        found = [
            self._shown(asked, state, counts.get(streams.heartbeat(state.name), 0))
            async for state in _states(asked.api, names)
        ]
        return JSONResponse({"checks": found})

    async def channels(self, request: Request) -> Response:
        """All of them, for each may hear of every check. Problem 503 if no notifier answers."""
        asked = await _asked(request, writes=True)
        found = [
            {"id": str(uuid5(NAMESPACE_URL, f"registry:channel:{it.name}")), "name": it.name, "kind": it.kind}
            for it in await channels.all_channels(asked.api.link)
        ]
        return JSONResponse({"channels": found})

    async def badges(self, request: Request) -> Response:
        asked = await _asked(request)
        base = f"{_public(asked.api)}/api/v{self._version}/badges"

        def links(tag: str) -> dict[str, str]:
            key = _badge_key(asked.api, tag)
            return {
                kind + (str(states) if states == 3 else ""): (
                    f"{base}/{key}/{states}/{quote(tag, safe='*/')}.{kind}"
                )
                for kind in ("svg", "json", "shields")
                for states in (2, 3)
            }

        return JSONResponse({"badges": {tag: links(tag) for tag in ("*", *asked.api.hub.index.tags)}})

    async def badge(self, request: Request) -> Response:
        """Of all services with a tag, for whoever has its key."""
        api, path = context_of(request), request.path_params
        tag, kind, states = path["tag"], path["kind"], path["states"]
        api.check_caught_up()
        known = hmac.compare_digest(path["key"].encode(), _badge_key(api, tag).encode())
        if not known or kind not in ("svg", "json", "shields") or states not in ("2", "3"):
            raise Problem(404, "not found")
        its = [each for each in api.hub.index if tag in ("*", *each.tags) and not each.paused]
        down, late = sum(each.is_down for each in its), sum(each.status is Status.SILENT for each in its)
        status = "down" if down else "late" if late and states == "3" else "up"
        label = "services" if tag == "*" else tag
        if kind == "json":
            return JSONResponse({"status": status, "total": len(its), "grace": late, "down": down})
        if kind == "shields":
            colour = {"up": "success", "late": "important", "down": "critical"}[status]
            return JSONResponse({"schemaVersion": 1, "label": label, "message": status, "color": colour})
        colour = badges.COLOURS[{"up": "alive", "late": "silent", "down": "down"}[status]]
        return Response(badges.draw(label, status, colour), media_type="image/svg+xml")

    # --- one check

    async def create(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        spec, api = _spec(asked.body), asked.api
        async with self._creating, api.commands.alone() if spec.unique else nullcontext():
            for _ in range(TRIES):
                if there := _matching(api, spec):
                    return await self._changed(asked, there.name, spec)
                wanted = _valid(lambda: checks.new(spec, lambda name: api.hub.index.get(name) is not None))
                try:
                    state = await api.commands.create(wanted, actor=asked.actor)
                except Problem as problem:
                    if problem.status != 409:
                        raise
                    continue  # another API was first: its event has been read now
                return JSONResponse(await self._with_pings(asked, state), 201)
        raise Problem(503, "too many are created at once", retry_after=1)

    async def read(self, request: Request) -> Response:
        asked = await _asked(request)
        return JSONResponse(await self._with_pings(asked, await _found(asked.api, request)))

    async def change(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state, spec = await _found(asked.api, request), _spec(asked.body)
        return await self._changed(asked, state.name, spec)

    async def _changed(self, asked: _Asked, name: str, spec: Spec) -> Response:
        api = asked.api
        before = await api.state(name)
        wanted = _valid(lambda: checks.change(spec, before, _timing(api, before)))
        return JSONResponse(
            await self._with_pings(asked, await api.commands.merge(name, wanted, None, actor=asked.actor))
        )

    async def delete(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state = await _found(asked.api, request)
        shown = await self._with_pings(asked, state)
        await asked.api.commands.delete(state.name, None, actor=asked.actor)
        return JSONResponse(shown)

    async def pause(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state = await _found(asked.api, request)
        state = await asked.api.commands.set_paused(state.name, True, None, actor=asked.actor)
        return JSONResponse(await self._with_pings(asked, state))

    async def resume(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state = await _found(asked.api, request)
        if not state.paused:
            raise Problem(409, "check is not paused")
        state = await asked.api.commands.set_paused(state.name, False, None, actor=asked.actor)
        return JSONResponse(await self._with_pings(asked, state))

    # --- its past

    async def pings(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state = await _found(asked.api, request)
        url = f"{_public(asked.api)}/api/v{self._version}/checks/{state.ping_key}/pings"
        heard = await history.heard(asked.api.link, state.name, state.registered_at, PINGS_SHOWN)
        return JSONResponse({"pings": [_ping(seq, item, url) for seq, item in heard]})

    async def ping_body(self, request: Request) -> Response:
        asked = await _asked(request, writes=True)
        state = await _found(asked.api, request)
        n = _whole_number(request.path_params["n"]) or 0
        stored = await message_at(asked.api.link, streams.HEARTBEATS, n) if 0 < n < 2**63 else None
        if stored and stored.subject == streams.heartbeat(state.name) and stored.at >= state.registered_at:
            body = parse_heartbeat(state.name, stored.data, stored.headers).body
            if body and body.message:
                return PlainTextResponse(body.message)
        raise Problem(404, "not found")

    async def flips(self, request: Request) -> Response:
        asked = await _asked(request)
        state = await _found(asked.api, request)
        now = asked.api.now()
        since, until = _number(request, "start", _LATEST), _number(request, "end", _LATEST)
        first = since or 0
        if (seconds := _number(request, "seconds", 31_536_000)) is not None:
            first = max(first, int((now - timedelta(seconds=seconds)).timestamp()))
        found = [
            {"timestamp": moment(at).replace(microsecond=0).isoformat(), "up": int(up)}
            for at, up in await _flips(asked.api, state)
            if first * 1_000_000 <= at and (until is None or at < until * 1_000_000)
        ]
        as_list = request.headers.get("user-agent", "").startswith(_WANTS_LIST)
        return JSONResponse(found if as_list else {"flips": found})

    # --- the registry itself

    async def status(self, request: Request) -> Response:
        """Whether it can be asked: no key is needed."""
        api = context_of(request)
        api.check_caught_up()
        await api.store.live.checkpoint(streams.SERVICES)
        return PlainTextResponse("OK")

    async def metrics(self, request: Request) -> Response:
        request.state.api_key = request.headers.get("x-metrics-key", "")
        api = (await _asked(request)).api
        last, _ = await last_sequence(api.link, streams.HEARTBEATS)
        return JSONResponse(
            {
                "ts": int(api.now().timestamp()),
                "max_ping_id": last,
                "max_notification_id": 0,
                "num_unprocessed_flips": 0,
            }
        )

    # --- how a check is shown

    async def _with_pings(self, asked: _Asked, state: ServiceState) -> dict[str, Any]:
        subject = streams.heartbeat(state.name)
        counts = await counted(asked.api.link, streams.HEARTBEATS, subject)
        return self._shown(asked, state, counts.get(subject, 0))

    def _shown(self, asked: _Asked, state: ServiceState, pings: int) -> dict[str, Any]:
        api, its = asked.api, _timing(asked.api, state)
        key = api.auth.badge_key(state.name)
        return checks.shown(
            state,
            its,
            version=self._version,
            next_ping=_next_ping(api, state, its),
            now=micros(api.now()),
            pings=pings,
            public_url=_public(api),
            ping_url=api.ping_url(state) if asked.writes else None,
            badge_url=f"{_public(api)}/badge/{state.name}.svg" + (f"?key={key}" if key else ""),
        )


def _matching(api: ApiContext, spec: Spec) -> ServiceState | None:
    """The check that `unique` means, if it is there."""
    unique, index = spec.unique or (), api.hub.index
    if not unique or any(getattr(spec, field) is None for field in unique):
        return None
    those: Iterable[ServiceState] = index
    for field, word in (("name", spec.name), ("slug", spec.slug)):
        if field in unique:
            those = index.called(word or "")
    found = (each for each in those if checks.matches(each, _timing(api, each), spec))
    return min(found, key=lambda each: each.registered_at, default=None)


def _public(api: ApiContext) -> str:
    return api.settings.public_url.rstrip("/")


def _badge_key(api: ApiContext, tag: str) -> str:
    """Another one than that of the service of this name; `-` where everybody may see them."""
    return api.auth.badge_key(f"tag {tag}") or "-"


def _timing(api: ApiContext, state: ServiceState) -> Timing:
    return checks.timing(state, api.settings.thresholds, api.settings.timezone)


def _next_ping(api: ApiContext, state: ServiceState, its: Timing) -> int | None:
    """When it is due after its last heartbeat, in microseconds."""
    if not state.last_heartbeat:
        return None
    if its.schedule:
        due = api.expected(state, moment(state.counted_at))
        return micros(due) if due else None
    return state.last_heartbeat + its.timeout * 1_000_000


async def _states(api: ApiContext, names: list[str]) -> AsyncIterator[ServiceState]:
    """Of those that have a ping key: a service of an older version gets one soon, and is a check then."""
    for start in range(0, len(names), READ_AT_ONCE):
        for state in await api.store.live.named(names[start : start + READ_AT_ONCE]):
            if state.exists and state.ping_key:
                yield state


_UNIQUE_KEY = re.compile(r"[0-9a-f]{40}")


async def _found(api: ApiContext, request: Request) -> ServiceState:
    """The check of a path: by its uuid or an alias, or by what readers know it by. Problem 404."""
    id_: str = request.path_params["id"]
    if _UNIQUE_KEY.fullmatch(id_) and request.method == "GET":
        name = api.hub.index.with_unique_key(id_)
    else:
        name = await api.store.live.with_key(id_)
    state = await api.store.live.get(name) if name else None
    if state is None or not state.exists:
        raise Problem(404, "not found")
    return state


def _valid(make: Callable[[], checks.WantedService]) -> checks.WantedService:
    try:
        return make()
    except ValidationError as error:
        raise _invalid(error) from None
    except ValueError as error:
        raise Problem(400, str(error)) from None


def _ping(seq: int, item: Any, url: str) -> dict[str, Any]:
    """What is not kept of a heartbeat is empty."""
    found = {
        "type": item.signal.value,
        "date": item.at.isoformat(),
        "n": seq,
        "scheme": item.source,
        "remote_addr": "",
        "method": "",
        "ua": "",
        "rid": item.run,
        "body_url": f"{url}/{seq}/body" if item.message else None,
    }
    return found if item.duration is None else found | {"duration": item.duration}


async def _flips(api: ApiContext, state: ServiceState) -> Iterable[tuple[int, bool]]:
    """When it went up and down, the newest first."""
    kind = StatusChanged.model_fields["type"].default
    changes = []
    async for row in api.store.live.rows_of([state.name], state.registered_at):
        if row["type"] == kind:
            since = micros(datetime.fromisoformat(row["data"]["since"]))
            if since >= state.registered_at:
                changes.append((row["_id"], since, Status(row["data"]["to"]) in _UP))
    flips, was = list[tuple[int, bool]](), None
    for _, at, up in sorted(changes):
        if up is not was:
            flips.append((at, up))
        was = up
    return reversed(flips)


def _number(request: Request, name: str, most: int) -> int | None:
    given = request.query_params.get(name)
    if not given:
        return None
    number = _whole_number(given)
    if number is None or number > most:
        raise Problem(400, f"{name}: a whole number of seconds, at most {most}")
    return number


def _whole_number(text: str) -> int | None:
    """None for anything else, and for one of more digits than Python makes a number of."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
