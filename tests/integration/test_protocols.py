"""Other systems' protocols at ingest as a process: answers byte for byte, and the heartbeats that follow."""

import asyncio
import gzip
import json
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import brotli
import httpx
import pytest
from nats.js.errors import NotFoundError

from shared.contracts import events
from shared.messaging import streams
from tests.broker import connect, eventually
from tests.servers import Process, nats_server, service

KEY = "5d3a8e0c-7a64-4c0a-9f7e-2b1d7c3e9a10"
UNKNOWN_KEY = "00000000-7a64-4c0a-9f7e-2b1d7c3e9a10"
ALIAS = "imported~Push.id-1"
TOKEN = "Ingest_token_0123456789"
RUN = "1b671a64-40d5-491e-99b0-da01ff1f3341"
HEX = "1b671a6440d5491e99b0da01ff1f3341"


Heard = tuple[str, Any, dict[str, str]]
"""Service, body, and what its headers say."""


class Server(NamedTuple):
    nats_url: str
    process: Process
    client: httpx.Client

    def heartbeats(self) -> list[Heard]:
        """Those that came since this was called last."""
        return [heard for heard, _ in self.marked()]

    def marked(self) -> list[tuple[Heard, bool]]:
        """The same, each with whether it says that a key named its service."""
        return asyncio.run(_taken(self.nats_url))


async def _taken(url: str) -> list[tuple[Heard, bool]]:
    nc, js = await connect(url)
    found, seq = list[tuple[Heard, bool]](), 0
    while True:
        try:
            message = await js.get_msg(streams.HEARTBEATS, seq + 1, subject="heartbeat.>", next=True)
        except NotFoundError:
            break
        seq = message.seq or 0
        said = {k.removeprefix("Registry-"): v for k, v in (message.headers or {}).items()}
        assert said.pop("Source") == "http"
        body = json.loads(message.data) if message.data else None
        by_key = said.pop("Found-By", None) == "key"
        found.append((((message.subject or "").removeprefix("heartbeat."), body, said), by_key))
    await js.purge_stream(streams.HEARTBEATS, subject="heartbeat.>")
    await nc.close()
    return found


async def configure(url: str, name: str, key: str, *aliases: str) -> None:
    """An event as the API writes it, that gives a service its keys."""
    config = events.ServiceConfig(aliases=aliases)
    event = events.ServiceUpdated(
        id=uuid.uuid4().hex,
        source="/test",
        subject=name,
        time=events.moment(1_000_000),
        data=events.ConfigData(config=config, ping_key=key),
    )
    nc, js = await connect(url)
    headers = {streams.TYPE_HEADER: event.type, streams.KEYS_HEADER: events.keys_of(event)}
    await js.publish(streams.config(name), event.to_bytes(), headers=headers)
    await nc.close()


@pytest.fixture(scope="module")
def nats_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("protocols")
    server = nats_server(folder).start()
    yield folder, f"nats://127.0.0.1:{server.port}"
    server.kill()


def started(folder: Path, url: str, stack: ExitStack, **variables: str) -> Server:
    process = service("ingest", folder, url, heartbeats_kept="5000", **variables).start()
    stack.callback(process.kill)
    client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{process.port}", timeout=20))
    while client.get("/readyz").status_code != 200:
        pass
    return Server(url, process, client)


@pytest.fixture(scope="module")
def servers(nats_of_module: tuple[Path, str]) -> Iterator[dict[str, Server]]:
    """Two ingests with the same record: one that needs a token, and one that needs none."""
    folder, url = nats_of_module
    with ExitStack() as stack:
        found = {
            "guarded": started(folder, url, stack, ingest_token=f"{TOKEN},another-token"),
            "open": started(folder, url, stack),
        }
        asyncio.run(configure(url, "backup", KEY, ALIAS))
        for server in found.values():
            deadline = time.monotonic() + 5
            while server.client.get(f"/ping/{KEY}/log").status_code != 200:
                assert time.monotonic() < deadline
        found["open"].heartbeats()
        yield found


class Case(NamedTuple):
    """A request and its answer. `warns`: how its warnings begin; `heard` has `...` for the body then."""

    method: str
    path: str
    status: int
    text: str
    heard: Heard | None = None
    headers: dict[str, str] = {}  # noqa: RUF012
    content: bytes = b""
    at: tuple[str, ...] = ("guarded", "open")
    warns: str = ""


def ok(path: str, heard: Heard, **more: Any) -> list[Case]:
    """A ping by all of its methods, with and without a closing slash."""
    address, question, query = path.partition("?")
    return [
        Case(method, f"{address}{slash}{question}{query}", 200, "OK", heard, **more)
        for method in ("GET", "HEAD", "POST")
        for slash in ("", "/")
    ]


def no(path: str, text: str = "not found", status: int = 404, **more: Any) -> list[Case]:
    return [Case(method, path, status, text, **more) for method in ("GET", "HEAD", "POST")]


FAIL, START, LOG = ({"Signal": word} for word in ("fail", "start", "log"))
LONG = b"x" * 100_000
CUT = "x" * 2_000 + "\n[… 90000 bytes left out …]\n" + "x" * 8_000


def pings(first: str, name: str) -> list[Case]:
    """Every signal. `first`: what leads to the service of this name."""
    return [
        *ok(first, (name, None, {})),
        *ok(f"{first}/start", (name, None, START)),
        *ok(f"{first}/fail", (name, None, FAIL)),
        *ok(f"{first}/log", (name, None, LOG)),
        *ok(f"{first}/0", (name, None, {})),
        *ok(f"{first}/1", (name, None, FAIL | {"Exit-Code": "1"})),
        *ok(f"{first}/255", (name, None, FAIL | {"Exit-Code": "255"})),
        *no(f"{first}/256", "invalid url format", 400),
        *no(f"{first}/{'9' * 5000}", "invalid url format", 400),
        *no(f"{first}/-1"),
        *no(f"{first}/KILL"),
        *no(f"{first}/Start"),
        *no(f"{first}/start/0"),
        *no(f"{first}/%C2%B2"),
        *ok(f"{first}?rid={RUN}", (name, {"run": RUN}, {})),
        *ok(f"{first}/start?rid={RUN.upper()}", (name, {"run": RUN.upper()}, START)),
        *ok(f"{first}/log?rid={RUN}", (name, None, LOG)),
        *no(f"{first}?rid=", "invalid uuid format", 400),
        *no(f"{first}/fail?rid=7", "invalid uuid format", 400),
        *no(f"{first}?rid={HEX}", "invalid uuid format", 400),
    ]


def bodies_of(path: str, name: str) -> list[Case]:
    """Whatever a body looks like, it is the message."""
    given: list[tuple[bytes, str, Any]] = [
        (b"done", "", "done"),
        (b'{"every": "5m", "message": "m"}', "application/json", '{"every": "5m", "message": "m"}'),
        (b"a=1&b=2", "application/x-www-form-urlencoded", "a=1&b=2"),
        (b"\xff\x00\xfe", "application/octet-stream", "\ufffd" * 3),
        ("grün".encode("latin-1"), "text/plain; charset=latin-1", "grün"),
        (LONG, "", CUT),
        (b"x" * 1_048_576, "", CUT.replace("90000", "1038576")),
        (b" \n", "", None),
    ]
    return [
        Case(
            "POST",
            path,
            200,
            "OK",
            (name, {"message": message} if message else None, FAIL),
            {"content-type": kind} if kind else {},
            content,
        )
        for content, kind, message in given
    ]


HEALTHCHECKS = [
    *pings(f"/ping/{KEY}", "backup"),
    *pings(f"/ping/{KEY.upper()}", "backup"),
    *pings(f"/ping/{ALIAS}", "backup"),
    *pings(f"/ping/{TOKEN}/backup", "backup"),
    *ok(f"//ping/{KEY}", ("backup", None, {})),
    *ok(f"/ping/{TOKEN.replace('_', '%5F')}/b%61ckup", ("backup", None, {})),
    *bodies_of(f"/ping/{KEY}/fail", "backup"),
    *bodies_of(f"/ping/{TOKEN}/backup/fail", "backup"),
    *no(f"/ping/{UNKNOWN_KEY}"),
    *no(f"/ping/{UNKNOWN_KEY}/fail"),
    *no(f"/ping/{UNKNOWN_KEY}/backup/fail?create=1"),
    *no("/ping/wrong/backup", at=("guarded",)),
    *no("/ping/wrong/new?create=1", at=("guarded",)),
    *no(f"/ping/{TOKEN}/unknown"),
    *no(f"/ping/{TOKEN}/unknown?create=0"),
    *no(f"/ping/{TOKEN}/unknown/start?create="),
    *no(f"/ping/{TOKEN}/a/b/c?create=1"),
    *no(f"/ping/{KEY}/backup/start"),
    *no("/ping/"),
    *no("/ping"),
    *no("/ping//backup"),
    *no(f"/ping/{TOKEN}//fail?create=1"),
    *no(f"/ping/{TOKEN}"),
    *(
        Case(method, path, 405, "Method Not Allowed")
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
        for path in (f"/ping/{KEY}", f"/ping/{TOKEN}/backup/fail")
    ),
    Case("GET", f"/ping/{TOKEN}/new-1?create=1", 201, "Created", ("new-1", None, {})),
    Case("GET", f"/ping/{TOKEN}/new-1?create=1", 200, "OK", ("new-1", None, {})),
    Case("HEAD", f"/ping/{TOKEN}/new-2/start?create=1", 201, "Created", ("new-2", None, START)),
    Case("POST", f"/ping/{TOKEN}/new-2/7", 200, "OK", ("new-2", None, FAIL | {"Exit-Code": "7"})),
    Case(
        "POST",
        f"/ping/{TOKEN}/my%20job%2F%C3%A9..?create=1",
        201,
        "Created",
        ("my-job--.-", ..., {}),
        warns="name: 'my job/\\xe9..' is kept as 'my-job--.-': 1-128 characters",
    ),
    Case("POST", f"/ping/{TOKEN}/my%20job%2F%C3%A9..", 200, "OK", ("my-job--.-", ..., {}), warns="name: 'my"),
    Case("POST", f"/ping/{TOKEN}/{'x' * 200}?create=1", 201, "Created", ("x" * 128, ..., {}), warns="name: "),
    *no("/ping/any/backup/any"),
    *[
        Case(method, f"/ping/any_word/backup{end}", 200, "OK", ("backup", None, FAIL), at=("open",))
        for method in ("GET", "HEAD", "POST")
        for end in ("/fail", "/fail/")
    ],
]

BOMB = b"x" * 9_000_000
BROTLI = {"content-encoding": "br"}
TOO_LARGE = "unpacked, it is larger than 8388608 bytes"
TOO_MANY = "an envelope holds at most 10000 lines beside its payloads"
NO_TOKEN = "this registry needs its ingest token: Authorization: Bearer …, or ?token=…"
NO_ENVELOPE = "this is no envelope: its first line is not a JSON object"
MISSING = '{"ok":false,"msg":"Monitor not found or not active."}'
KUMA: list[Case] = (
    [
        Case(method, f"/api/push/{key}{slash}{query}", 200, '{"ok":true}', heard)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
        for key in (KEY, ALIAS)
        for slash, query, heard in (
            ("", "", ("backup", None, {})),
            ("/", "?status=up&msg=OK&ping=", ("backup", {"message": "OK"}, {})),
            (
                "",
                "?status=down&msg=disk%20full&ping=12.5",
                ("backup", {"message": "disk full"}, FAIL | {"Duration": "0.0125"}),
            ),
        )
    ]
    + [
        Case(
            "GET",
            f"/api/push/{KEY}?{'x=1&' * 300}status=down",
            200,
            '{"ok":true}',
            ("backup", ..., FAIL),
            warns="query: it has more parameters than are read",
        )
    ]
    + [
        Case("GET", f"/api/push/{KEY}?status={status}", 200, '{"ok":true}', ("backup", None, signal))
        for status, signal in (("", {}), ("up", {}), ("UP", FAIL), ("pending", FAIL), ("up&status=x", FAIL))
    ]
    + [
        Case(
            "GET", f"/api/push/{KEY}?ping={ping}", 200, '{"ok":true}', ("backup", None, {"Duration": seconds})
        )
        for ping, seconds in (("0", "0.0"), ("1e11", "100000000.0"), ("20ms", "0.02"), (".5", "0.0005"))
    ]
    + [
        Case(
            "GET",
            f"/api/push/{KEY}?ping={ping}",
            200,
            '{"ok":true}',
            ("backup", ..., {}),
            warns=f"ping: '{ping[:40]}' is not a number of milliseconds from 0 to 1e11",
        )
        for ping in ("-1", "1e12", "soon", "1e999", "NaN")
    ]
    + [
        Case(method, f"/api/push/{key}", 404, MISSING)
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
        for key in (UNKNOWN_KEY, TOKEN, "", "%20", f"{KEY}/more", f"{KEY}x")
    ]
    + [
        Case(
            "POST",
            f"/api/push/{KEY}?msg=short",
            200,
            '{"ok":true}',
            ("backup", {"message": "short\nlong"}, {}),
            content=b"long",
        ),
        Case("POST", f"/api/push/{KEY}", 200, '{"ok":true}', ("backup", {"message": CUT}, {}), content=LONG),
    ]
)

BEARER = {"authorization": f"Bearer {TOKEN}"}
GATUS_NAME = "core_ext-ep"


def gatus(query: str, heard: Heard | None, **more: Any) -> Case:
    path = f"/api/v1/endpoints/{GATUS_NAME}/external{query}"
    return Case("POST", path, more.pop("status", 200), more.pop("text", ""), heard, BEARER, **more)


NO_SUCCESS = "success: true or false is needed"
GATUS = [
    gatus("?success=true", (GATUS_NAME, None, {})),
    gatus("/?success=true", (GATUS_NAME, None, {})),
    gatus("?success=true&error=&duration=10s", (GATUS_NAME, None, {"Duration": "10.0"})),
    gatus(
        "?success=false&error=timed%20out&duration=1m30s",
        (GATUS_NAME, {"message": "timed out"}, FAIL | {"Duration": "90.0"}),
    ),
    gatus("?success=true&duration=250ms", (GATUS_NAME, None, {"Duration": "0.25"})),
    gatus("?success=true&duration=1h2m3.5s", (GATUS_NAME, None, {"Duration": "3723.5"})),
    gatus("?success=true&duration=0", (GATUS_NAME, None, {"Duration": "0.0"})),
    gatus("?success=true&duration=15%C2%B5s", (GATUS_NAME, None, {"Duration": "1.5e-05"})),
    gatus("?success=false", (GATUS_NAME, {"message": "refused"}, FAIL), content=b'{"error": "refused"}'),
    gatus("?success=false&error=a", (GATUS_NAME, {"message": "a\nb"}, FAIL), content=b"b"),
    gatus("?success=true&duration=soon", (GATUS_NAME, ..., {}), warns="duration: 'soon' is not a duration"),
    gatus("?success=true&duration=-3s", (GATUS_NAME, ..., {}), warns="duration: -3.0 is not a number"),
    gatus("", None, status=400, text=NO_SUCCESS),
    gatus("?success=", None, status=400, text=NO_SUCCESS),
    gatus("?success=yes", None, status=400, text=NO_SUCCESS),
    gatus("?success=TRUE", None, status=400, text=NO_SUCCESS),
    Case("POST", "/api/v1/endpoints//external?success=true", 404, "not found", headers=BEARER),
    Case("POST", "/api/v1/endpoints/a_b?success=true", 404, "not found", headers=BEARER),
    Case("POST", "/api/v1/endpoints/a_b/internal?success=true", 404, "not found", headers=BEARER),
    *(
        Case(method, "/api/v1/endpoints/a_b/external?success=true", 405, "Method Not Allowed", headers=BEARER)
        for method in ("GET", "HEAD", "PUT", "DELETE")
    ),
    *(
        Case(
            "POST",
            "/api/v1/endpoints/a_b/external?success=true",
            401,
            NO_TOKEN,
            headers=headers,
            at=("guarded",),
        )
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"})
    ),
    # A key is good for its own service.
    Case(
        "POST",
        "/api/v1/endpoints/backup/external?success=false",
        200,
        "",
        ("backup", None, FAIL),
        {"authorization": f"Bearer {KEY}"},
    ),
    Case(
        "POST",
        "/api/v1/endpoints/core_x/external?success=false",
        401,
        NO_TOKEN,
        headers={"authorization": f"Bearer {KEY}"},
        at=("guarded",),
    ),
]

CRON = f"/api/42/cron/nightly/{TOKEN}"
CONFIG = {
    "schedule": {"type": "crontab", "value": "0 3 * * *"},
    "checkin_margin": 30,
    "max_runtime": 120,
    "failure_issue_threshold": 3,
    "recovery_threshold": 2,
    "timezone": "Europe/Berlin",
}
DECLARED = {
    "schedule": "0 3 * * *",
    "time_zone": "Europe/Berlin",
    "limits": {"down_after": "30m", "max_run": "2h", "fail_after": 3, "recover_after": 2},
}
ANY_ID = '{"id":"…"}'
JSON = {"content-type": "application/json"}


def check_in(fields: dict[str, Any], heard: Heard, **more: Any) -> Case:
    status = more.pop("text", ANY_ID)
    return Case("POST", f"{CRON}/", 202, status, heard, JSON, json.dumps(fields).encode(), **more)


def envelope(*check_ins: dict[str, Any], others: bool = True) -> bytes:
    """As SDKs write it, beside items of other types."""
    lines = [json.dumps({"event_id": HEX, "sent_at": "2026-11-28T00:00:00Z"})]
    if others:
        lines += [json.dumps({"type": "event", "length": 13}), '{"message":1}']
        lines += [json.dumps({"type": "attachment", "length": 3}), "a\nb"]
    for each in check_ins:
        payload = json.dumps(each)
        lines += [json.dumps({"type": "check_in", "length": len(payload)}), payload]
    if others:
        lines += [json.dumps({"type": "statsd"}), "counter:1|c"]
    return "\n".join(lines).encode() + b"\n"


DONE = {"check_in_id": HEX, "monitor_slug": "nightly", "status": "ok", "duration": 1.5, "environment": "prod"}
DONE_HEARD = ("nightly", {"run": HEX, "metadata": {"environment": "prod"}}, {"Duration": "1.5"})
BAD = {"status": "ok"}
AUTH = {"x-sentry-auth": f"Sentry sentry_key={TOKEN}, sentry_version=7, sentry_client=sentry.python/2.75.0"}
KNOWN_ID = f'{{"id":"{HEX}"}}'
DSN = json.dumps({"dsn": f"https://{TOKEN}@example.com/42"}).encode()


def enveloped(content: bytes, heard: Heard | None, **more: Any) -> Case:
    headers = AUTH | more.pop("headers", {})
    text = more.pop("text", KNOWN_ID)
    return Case("POST", "/api/42/envelope/", more.pop("status", 202), text, heard, headers, content, **more)


SENTRY = [
    *(
        Case(method, f"{CRON}{slash}?status={status}", 202, ANY_ID, ("nightly", None, signal))
        for method in ("GET", "HEAD", "POST", "PUT")
        for slash in ("", "/")
        for status, signal in (("in_progress", START), ("ok", {}), ("error", FAIL), ("timeout", FAIL))
    ),
    Case(
        "GET",
        f"{CRON}/?status=ok&check_in_id={HEX}&duration=12.5&environment=prod",
        202,
        KNOWN_ID,
        ("nightly", {"run": HEX, "metadata": {"environment": "prod"}}, {"Duration": "12.5"}),
    ),
    Case("GET", f"{CRON}/?status=ok&check_in_id={'0' * 32}", 202, ANY_ID, ("nightly", None, {})),
    Case("GET", f"/api/42/cron/nightly/?status=ok&sentry_key={TOKEN}", 202, ANY_ID, ("nightly", None, {})),
    Case("GET", "/api/42/cron/nightly/?status=ok", 202, ANY_ID, ("nightly", None, {}), AUTH),
    Case(
        "GET",
        "/api/42/cron/nightly/?status=ok",
        202,
        ANY_ID,
        ("nightly", None, {}),
        {"authorization": AUTH["x-sentry-auth"]},
    ),
    Case("GET", f"{CRON}/", 202, ANY_ID, ("nightly", ..., {}), warns="status: it is none of in_progress"),
    *(
        Case(
            "POST", f"{CRON}/?status=error", 202, ANY_ID, ("nightly", ..., FAIL), headers, content, warns=said
        )
        for headers, content, said in (
            ({}, b"\x1f\x8b broken", "body: it cannot be unpacked"),
            ({"content-encoding": "gzip"}, b"no gzip", "body: it cannot be unpacked"),
            ({"content-encoding": "gzip"}, gzip.compress(BOMB), f"body: {TOO_LARGE}"),
            ({"content-encoding": "zstd"}, b"x", "body: compressed by one of"),
        )
    ),
    Case(
        "GET",
        f"{CRON}/?status=fine",
        202,
        ANY_ID,
        ("nightly", ..., FAIL),
        warns="status: 'fine' is not in_progress",
    ),
    Case(
        "GET",
        f"{CRON}/?status=ok&duration=x",
        202,
        ANY_ID,
        ("nightly", ..., {}),
        warns="duration: 'x' is not",
    ),
    Case(
        "GET",
        f"/api/1/cron/a%20b/{TOKEN}/?status=ok",
        202,
        ANY_ID,
        ("a-b", ..., {}),
        warns="name: 'a b' is kept as 'a-b'",
    ),
    check_in({"status": "in_progress", "monitor_config": CONFIG}, ("nightly", DECLARED, START)),
    check_in({"status": "in_progress", "monitor_config": json.dumps(CONFIG)}, ("nightly", DECLARED, START)),
    check_in(
        {
            "status": "ok",
            "check_in_id": HEX,
            "monitor_config": {"schedule": {"type": "interval", "value": 2, "unit": "hour"}},
        },
        ("nightly", {"every": "2h", "run": HEX}, {}),
        text=KNOWN_ID,
    ),
    check_in(
        {
            "status": "ok",
            "monitor_config": {
                "schedule": {"type": "interval", "value": 1, "unit": "month"},
                "timezone": "UTC",
            },
        },
        ("nightly", {"every": "30d"}, {}),
    ),
    check_in(
        {"status": "ok", "monitor_config": {"schedule_type": "interval", "schedule": [3, "day"]}},
        ("nightly", {"every": "3d"}, {}),
    ),
    check_in({"status": "ok", "monitor_config": None}, ("nightly", None, {})),
    check_in(
        {"status": "ok", "monitor_config": {"schedule": {"type": "interval", "value": 1, "unit": "eon"}}},
        ("nightly", ..., {}),
        warns="every: '1 eon' is not a duration",
    ),
    check_in(
        {"status": "ok", "monitor_config": {"schedule": {"type": "crontab", "value": "whenever"}}},
        ("nightly", ..., {}),
        warns="schedule: ",
    ),
    check_in(
        {"status": "ok", "monitor_config": {"schedule": {"type": "lunar", "value": "x"}}},
        ("nightly", ..., {}),
        warns="schedule: 'lunar' is neither crontab nor interval",
    ),
    check_in(
        {"status": "ok", "monitor_config": {"max_runtime": -1, "recovery_threshold": 0}},
        ("nightly", ..., {}),
        warns="max_runtime: -1 is not a number of minutes that can be used; recovery_thr",
    ),
    check_in(
        {"status": "ok", "monitor_config": [1]},
        ("nightly", ..., {}),
        warns="monitor_config: it is not an obj",
    ),
    check_in({"other": 1}, ("nightly", ..., {}), warns="status: it is none of"),
    Case("POST", f"{CRON}/?status=error", 202, ANY_ID, ("nightly", {"message": CUT}, FAIL), {}, LONG),
    enveloped(envelope(DONE), DONE_HEARD),
    enveloped(envelope(DONE, others=False), DONE_HEARD),
    enveloped(gzip.compress(envelope(DONE)), DONE_HEARD, headers={"content-encoding": "gzip"}),
    enveloped(gzip.compress(envelope(DONE)), DONE_HEARD),
    enveloped(zlib.compress(envelope(DONE)), DONE_HEARD, headers={"content-encoding": "deflate"}),
    enveloped(zlib.compress(envelope(DONE), wbits=-15), DONE_HEARD, headers={"content-encoding": "deflate"}),
    enveloped(brotli.compress(envelope(DONE)), DONE_HEARD, headers=BROTLI),
    enveloped(envelope(), None),
    enveloped(
        envelope(BAD, DONE),
        (*DONE_HEARD[:1], ..., *DONE_HEARD[2:]),
        warns="envelope: a check-in cannot be read",
    ),
    enveloped(
        envelope(BAD | {"monitor_slug": "\ud800-"}), ("--", ..., {}), warns="name: '\\ud800-' is kept as '--'"
    ),
    enveloped(
        envelope(DONE) + b'{"type": "check_in"}\nnot json',
        (*DONE_HEARD[:1], ..., *DONE_HEARD[2:]),
        warns="envelope: a check-in cannot be read",
    ),
    enveloped(
        envelope(DONE | {"status": "in_progress", "monitor_config": CONFIG}),
        (
            "nightly",
            {**DECLARED, "run": HEX, "metadata": {"environment": "prod"}},
            START | {"Duration": "1.5"},
        ),
    ),
    enveloped(b"{}\n" + b'{"type":"check_in"}\n' + json.dumps(DONE).encode(), DONE_HEARD),
    enveloped(b"", None, status=400, text=NO_ENVELOPE),
    enveloped(b"[]\n", None, status=400, text=NO_ENVELOPE),
    enveloped(b"\xff\xfe", None, status=400, text=NO_ENVELOPE),
    enveloped(b"[" * 100_000, None, status=400, text=NO_ENVELOPE),
    enveloped(b"{}\nnot json\n", None, status=400, text="the header of an item cannot be read"),
    enveloped(
        b'{}\n{"type":"check_in"}\n{"status":"ok"}',
        None,
        status=400,
        text="a check-in cannot be read, or does not say monitor_slug",
    ),
    enveloped(b"\x1f\x8b broken", None, status=400, text="it cannot be unpacked"),
    enveloped(gzip.compress(envelope(DONE))[:-9], None, status=400, text="it cannot be unpacked"),
    enveloped(gzip.compress(BOMB), None, status=413, text=TOO_LARGE),
    enveloped(brotli.compress(BOMB), None, headers=BROTLI, status=413, text=TOO_LARGE),
    *(
        enveloped(content, None, headers=BROTLI, status=400, text="it cannot be unpacked")
        for content in (
            b"",
            b"garbage",
            b"\xff" * 2000,
            gzip.compress(envelope(DONE)),
            brotli.compress(envelope(DONE))[:-1],
            brotli.compress(envelope(DONE)) + b"more",
        )
    ),
    enveloped(b"{}" + b"\n" * 1_000_000 + b"{}", None, status=413, text=TOO_MANY),
    enveloped(b"{}\n" + b'{"type":"x","length":0}\n' * 40_000, None, status=413, text=TOO_MANY),
    enveloped(brotli.compress(b"{}\n" * 2_000_000), None, headers=BROTLI, status=413, text=TOO_MANY),
    enveloped(
        brotli.compress(b'{"x":[' + b"{}," * 2_500_000 + b"{}]}"),
        None,
        headers=BROTLI,
        status=400,
        text=NO_ENVELOPE,
    ),
    enveloped(
        b"{}",
        None,
        headers={"content-encoding": "zstd"},
        status=415,
        text="compressed by one of gzip, deflate, br, or not at all",
    ),
    Case(
        "POST",
        f"/api/42/envelope?sentry_key={TOKEN}&sentry_version=7",
        202,
        KNOWN_ID,
        DONE_HEARD,
        {},
        envelope(DONE),
    ),
    Case(
        "POST",
        "/api/42/envelope/",
        202,
        ANY_ID,
        ("nightly", {"run": "x", "metadata": {"environment": "prod"}}, {"Duration": "1.5"}),
        {},
        DSN + b'\n{"type":"check_in"}\n' + json.dumps(DONE | {"check_in_id": "x"}).encode(),
    ),
    *(
        Case("POST", path, 401, NO_TOKEN, at=("guarded",), content=content)
        for path, content in (
            ("/api/42/cron/nightly/wrong/?status=ok", b""),
            ("/api/42/cron/nightly/?status=ok", b""),
            (f"/api/42/cron/backup/{KEY}/?status=ok", b""),
            ("/api/42/envelope/", envelope(DONE)),
            ("/api/42/envelope/", b'{"dsn": "http://\\ud800@h/1"}'),
            ("/api/42/envelope/?sentry_key=wrong", envelope(DONE)),
        )
    ),
    *(
        Case("POST", path, 404, "not found", headers=AUTH)
        for path in (
            "/api/42/store/",
            "/api/42/cron/",
            "/api/42/cron/a/b/c/",
            "/api/42/cron//x/",
            f"/api/{'9' * 5000}/nothing",
        )
    ),
    *(
        Case(method, path, 404, "Not Found", headers=AUTH)
        for path in ("/api/42/", "/api/x1/envelope/", "/api/v1/checks/", "/api/", "/api")
        for method in ("GET", "POST")
    ),
    *(
        Case(method, path, 405, "Method Not Allowed", headers=AUTH)
        for path in (f"{CRON}/", "/api/42/envelope/")
        for method in ("DELETE", "PATCH", "OPTIONS")
    ),
]


def _label(case: Case) -> str:
    return f"{case.method} {case.path[:80]} {case.content[:20]!r}"


@pytest.mark.parametrize("at", ["guarded", "open"])
@pytest.mark.parametrize(
    ("protocol", "cases"),
    [("healthchecks", HEALTHCHECKS), ("kuma", KUMA), ("gatus", GATUS), ("sentry", SENTRY)],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_every_request_has_its_answer_and_its_heartbeat(
    protocol: str, cases: list[Case], at: str, servers: dict[str, Server]
) -> None:
    server = servers[at]
    base = f"http://127.0.0.1:{server.process.port}"
    server.heartbeats()
    expected: list[Heard] = []
    wrong: list[str] = []
    for case in cases:
        if at not in case.at:
            continue
        given = server.client.request(
            case.method, f"{base}{case.path}", headers=case.headers, content=case.content or None
        )
        text = given.text
        if given.headers.get("content-type") == "application/problem+json" and case.method != "HEAD":
            text = given.json()["detail"]
        if case.text == ANY_ID and text.startswith('{"id":"'):
            assert len(given.json()["id"]) == 32
            text = ANY_ID
        shown = "" if case.method == "HEAD" else case.text
        if (given.status_code, text) != (case.status, shown):
            wrong.append(f"{_label(case)}: {given.status_code} {text}")
        warned = given.headers.get("registry-warnings", "")
        if bool(warned) != bool(case.warns) or not warned.startswith(case.warns):
            wrong.append(f"{_label(case)}: {warned!r}")
        if case.path != "/api":
            assert given.headers.get("referrer-policy") == "no-referrer", (_label(case), given.text)
            assert given.headers["cache-control"] == "no-store"
        if protocol == "healthchecks":
            assert given.headers.get("ping-body-limit") == "10000", (_label(case), given.text)
            assert given.headers["access-control-allow-origin"] == "*"
            kind = "application/problem+json" if case.status == 405 else "text/plain; charset=utf-8"
            assert given.headers["content-type"] == kind
        if case.heard:
            expected.append(case.heard)
    assert not wrong
    heard = server.heartbeats()
    assert len(heard) == len(expected)
    for is_, should in zip(heard, expected, strict=True):
        if should[1] is ...:
            assert is_[1]["warnings"]
            is_ = (is_[0], ..., is_[2])
        assert is_ == should


@pytest.mark.parametrize(
    ("typed", "heard"),
    [
        (f"/api/push/{KEY}?status=down&msg=größer", ("backup", {"message": "größer"}, FAIL)),
        (f"/ping/{TOKEN}/grün?create=1", ("gr-n", ..., {})),
        (f"/api/v1/endpoints/{GATUS_NAME}/external?success=false&error=zu größ", None),
        ("/heartbeat/typed?message=größer", ("typed", {"message": "größer"}, {})),
    ],
)
def test_an_address_may_be_sent_as_it_was_typed(
    typed: str, heard: Heard | None, servers: dict[str, Server]
) -> None:
    """As curl does: nothing in it is escaped."""
    server = servers["guarded"]
    server.heartbeats()
    head = f"POST {typed} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    request = head + "Connection: close\r\nX-Who: größer\r\nContent-Length: 0\r\n\r\n".encode()
    at = request.index("ü".encode() if "ü" in typed else "ß".encode()) + 1
    for pieces in ((request,), (request[:at], request[at:])):  # in the middle of a letter
        with socket.create_connection(("127.0.0.1", server.process.port), timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.1)
            answer = connection.makefile("rb").read()
        status = int(answer.split(b" ")[1])
        assert (status < 300) == (heard is not None), answer
    found = [
        (name, ... if heard and heard[1] is ... else body, said) for name, body, said in server.heartbeats()
    ]
    assert found == [heard] * 2 if heard else not found


WRONG = {
    "a key": ("GET", f"/ping/{UNKNOWN_KEY}", {}, ("guarded", "open"), 404),
    "an alias or a token": ("GET", "/ping/wrong/backup", {}, ("guarded",), 404),
    "a push key": ("GET", "/api/push/wrong", {}, ("guarded", "open"), 404),
    "Gatus": (
        "POST",
        "/api/v1/endpoints/a_b/external?success=true",
        {"authorization": "Bearer wrong"},
        ("guarded",),
        401,
    ),
    "Sentry": ("GET", "/api/1/cron/a/wrong/?status=ok", {}, ("guarded",), 401),
    "an envelope": (
        "POST",
        "/api/1/envelope/",
        {"x-sentry-auth": "Sentry sentry_key=wrong"},
        ("guarded",),
        401,
    ),
    "an envelope's own": ("POST", "/api/1/envelope/", {}, ("guarded",), 401),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("at", ["guarded", "open"])
def test_a_wrong_key_costs_the_asker_as_a_wrong_token_does(
    what: str, at: str, servers: dict[str, Server]
) -> None:
    method, path, headers, where, refused = WRONG[what]
    if at not in where:
        return
    client = servers[at].client
    asker = {"x-forwarded-for": f"203.0.113.{list(WRONG).index(what)}"}
    content = b'{"dsn":"http://wrong@h/1"}\n' if what == "an envelope's own" else None

    def status(headers: dict[str, str]) -> int:
        answer = client.request(method, path, headers=headers, content=content)
        assert (answer.status_code != 429) or int(answer.headers["retry-after"]) > 0
        return answer.status_code

    assert [status(headers | asker) for _ in range(12)] == [refused] * 10 + [429] * 2
    assert status(headers | {"x-forwarded-for": "203.0.113.200"}) == refused  # another has not tried so often
    # Whoever has a good one is heard, from the same address too, on the short way and on the other.
    for good in (f"/ping/{KEY}", f"/ping/{KEY}/0", f"/ping/{TOKEN}/backup", f"/api/push/{KEY}"):
        assert client.get(good, headers=asker).status_code == 200
    assert client.get(f"/ping/{KEY}", headers={"authorization": "Bearer wrong"} | asker).status_code == 200


def test_a_key_lets_its_service_send_and_nothing_else(servers: dict[str, Server]) -> None:
    client = servers["guarded"].client
    bearer = {"authorization": f"Bearer {KEY}"}
    for answer in (
        client.get("/heartbeat/other", headers=bearer),
        client.get("/heartbeat/backup", headers=bearer),
        client.get(f"/heartbeat/other?token={KEY}"),
        client.post("/heartbeats", json={"services": ["other"]}, headers=bearer),
        client.get(f"/api/1/cron/other/{KEY}/?status=ok"),
        client.post("/api/v1/endpoints/a_other/external?success=true", headers=bearer),
    ):
        assert answer.status_code == 401
    assert client.get(f"/ping/{KEY}/other?create=1").status_code == 404
    assert client.get(f"/ping/{KEY}/other/start?create=1").status_code == 404
    # What one request on a connection has shown is nothing to the next one.
    assert client.get(f"/ping/{KEY}").status_code == 200
    assert client.get("/heartbeat/other").status_code == 401


def test_secrets_of_addresses_stand_nowhere(
    nats_of_module: tuple[Path, str], servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = nats_of_module
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with ExitStack() as stack:
        server = started(folder, url, stack, ingest_token=TOKEN, log_level="debug", log_format="json")
        while server.client.get(f"/ping/{KEY}/log").status_code != 200:
            pass
        answers = ""
        for case in (*HEALTHCHECKS, *KUMA[:40], *GATUS, *SENTRY):
            headers = case.headers | {
                "traceparent": f"00-{uuid.uuid4().hex}-{'a' * 16}-01",
                "referer": f"http://127.0.0.1/ping/{KEY}",
                "x-forwarded-for": "203.0.113.77" if case.status >= 400 else "203.0.113.78",
            }
            content = case.content or None
            answer = server.client.request(case.method, case.path, headers=headers, content=content)
            answers += f"{answer.text} {answer.headers}"
        metrics = server.client.get("/metrics").text
        assert server.process.stop() == 0
    log = server.process.log.read_text()
    assert '"name": "heartbeat"' in log
    assert "tries tokens out" in log
    for secret in (KEY, UNKNOWN_KEY, ALIAS, TOKEN):
        for where in (log, metrics, answers):
            assert secret.lower() not in where.lower()


async def test_a_key_works_at_once_and_ends_with_its_rotation(servers: dict[str, Server]) -> None:
    url, first, second = servers["open"].nats_url, str(uuid.uuid4()), str(uuid.uuid4())

    async def answered(key: str, status: int) -> None:
        async def is_so() -> bool:
            return {it.client.get(f"/ping/{key}").status_code for it in servers.values()} == {status}

        await eventually(is_so, within=1)

    await answered(first, 404)
    await configure(url, "rotated", first)
    await answered(first, 200)
    await configure(url, "rotated", second)
    await answered(second, 200)
    await answered(first, 404)


def test_a_key_that_may_be_there_is_no_wrong_one(tmp_path: Path) -> None:
    """Clients try 503 again, and not 404; and a name that is an alias is not to be registered."""
    broker = nats_server(tmp_path)
    url = f"nats://127.0.0.1:{broker.port}"
    paths = {
        f"/ping/{KEY}": 200,
        f"/ping/{ALIAS}/start": 200,
        f"/api/push/{ALIAS}": 200,
        f"/ping/any/{ALIAS}": 200,
        f"/api/1/cron/{ALIAS}/any/": 202,
        f"/ping/{UNKNOWN_KEY}": 404,
        "/ping/any/other": 404,
    }
    with ExitStack() as stack:
        ingest = service("ingest", tmp_path, url).start()
        stack.callback(ingest.kill)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{ingest.port}", timeout=20))
        asker = {"x-forwarded-for": "203.0.113.9"}

        def answers() -> list[int]:
            given = [client.get(path, headers=asker) for path in paths]
            assert all("retry-after" in each.headers for each in given if each.status_code == 503)
            return [each.status_code for each in given]

        def become(wanted: list[int]) -> None:
            deadline = time.monotonic() + 20
            while (found := answers()) != wanted:
                assert set(found) <= {503, *wanted}
                assert time.monotonic() < deadline, found
                time.sleep(0.5)

        for _ in range(12):  # more than so many wrong keys are refused
            assert answers() == [503] * len(paths)
        stack.callback(broker.start().kill)
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        asyncio.run(configure(url, "backup", KEY, ALIAS))
        while client.get(f"/ping/{KEY}").status_code != 200:
            time.sleep(0.1)
        become(list(paths.values()))
        broker.kill()
        become([503] * len(paths))
        broker.start()
        become(list(paths.values()))


def test_what_a_key_names_says_so_and_nothing_else_does(servers: dict[str, Server]) -> None:
    """By the short way, with another signal, with a body."""
    server = servers["guarded"]
    server.marked()
    of_key = {"authorization": f"Bearer {KEY}"}
    gatus, envelopes = "/api/v1/endpoints/backup/external?success=true", "/api/1/envelope/"
    for path, headers, by_key in (
        (f"/ping/{KEY}", {}, True),
        (f"/ping/{KEY}/fail", {}, True),
        (f"/ping/{ALIAS}", {}, True),
        (f"/api/push/{KEY}", {}, True),
        (gatus, of_key, True),
        (gatus, BEARER, False),
        (f"/ping/{TOKEN}/backup", {}, False),
        (f"/ping/{TOKEN}/other?create=1", {}, False),
        (f"{CRON}/?status=ok", {}, False),
        ("/heartbeat/backup", BEARER, False),
    ):
        for content in (None, b"said"):
            assert server.client.post(path, headers=headers, content=content).status_code < 300, path
            assert [marked for _, marked in server.marked()] == [by_key], path
    server.client.post(envelopes, content=envelope({"monitor_slug": "backup", "status": "ok"}), headers=AUTH)
    assert [marked for _, marked in server.marked()] == [False]


def test_many_check_ins_of_one_envelope_all_count(servers: dict[str, Server]) -> None:
    server = servers["guarded"]
    server.heartbeats()
    names = [f"cron-{n}" for n in range(100)]
    many = [{"monitor_slug": name, "status": "error"} for name in names]
    answer = server.client.post("/api/1/envelope/", content=envelope(*many), headers=AUTH)
    assert (answer.status_code, answer.json()) == (202, {"id": HEX})
    assert [name for name, _, _ in server.heartbeats()] == names
    answer = server.client.post("/api/1/envelope/", content=envelope(*many, many[0]), headers=AUTH)
    assert answer.status_code == 413
    assert server.heartbeats() == []


def test_a_limit_is_told_with_when_to_try_again(nats_of_module: tuple[Path, str]) -> None:
    folder, url = nats_of_module
    with ExitStack() as stack:
        server = started(folder, url, stack, max_services="1", rate_limit_per_address="1/m")
        asyncio.run(configure(url, "backup", KEY, ALIAS))
        while server.client.get(f"/ping/{KEY}").status_code != 200:
            pass
        for path in ("/ping/any/new?create=1", "/api/1/cron/new/any/?status=ok"):
            answer = server.client.get(path)
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "60"
        asker = {"x-forwarded-for": "203.0.113.7"}
        answers = [server.client.get("/api/1/cron/new/any/?status=ok", headers=asker) for _ in range(3)]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) > 0
        # A name that there is no room for costs no other.
        server.heartbeats()
        two = envelope({"monitor_slug": "new", "status": "ok"}, {"monitor_slug": "backup", "status": "ok"})
        assert server.client.post("/api/1/envelope/", content=two).status_code == 429
        assert [name for name, _, _ in server.heartbeats()] == ["backup"]
        # Whoever has a key is no stranger.
        while server.client.get(f"/ping/{KEY}", headers=asker).status_code == 404:
            pass
        for path in (f"/ping/{KEY}", f"/ping/{KEY}/0", f"/api/push/{KEY}"):
            assert server.client.get(path, headers=asker).status_code == 200


def test_the_keys_of_a_service_are_counted_together(nats_of_module: tuple[Path, str]) -> None:
    folder, url = nats_of_module
    paths = [
        f"/ping/{KEY}",
        f"/ping/{KEY.upper()}",
        f"/ping/{KEY.title()}",
        f"/ping/{ALIAS}",
        f"/ping/{KEY}/0",
    ]
    with ExitStack() as stack:
        server = started(folder, url, stack, rate_limit_per_token="1/m")
        asyncio.run(configure(url, "backup", KEY, ALIAS))
        asyncio.run(configure(url, "later", later := str(uuid.uuid4())))
        while server.client.get(f"/ping/{later}").status_code != 200:
            pass
        answers = [server.client.get(path) for path in paths]
    assert [each.status_code for each in answers] == [200, 429, 429, 429, 429]


def test_other_sites_pages_need_a_key_where_no_token_is_needed(servers: dict[str, Server]) -> None:
    foreign = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    client = servers["open"].client
    for path in ("/ping/any/backup", "/api/1/cron/backup/any/?status=ok"):
        assert client.get(path, headers=foreign).status_code == 403
    for path in (f"/ping/{KEY}", f"/api/push/{KEY}"):
        assert client.get(path, headers=foreign).status_code == 200
