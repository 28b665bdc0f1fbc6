"""No input breaks a page: whatever anybody may set, every page and every answer of the API is still there.

Heartbeats over HTTP and over NATS, the API's bodies and queries, the forms, and events as older versions may
have left them, all with the extremes of every field. `FUZZ=1000` tries so many; `make fuzz` does.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import nats
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.servers import Process, mongo_server, nats_server, service

EXAMPLES = int(os.environ.get("FUZZ", "20"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate],  # what was stored stays stored, so nothing is the same again
    suppress_health_check=list(HealthCheck),
)

MARK = "<x-fuzz a=\"1\" b='2'>&"
NAMES = st.sampled_from(["a", "b.c", "x" * 128])
TEXTS = st.sampled_from(
    [
        *("", " ", "a", MARK, f"{MARK},{MARK}", "a,b", "\x00", "\x1b[2J", "\ud800", "\u202e\u2066", "é" * 50),
        *(
            "{{ 7 * 7 }}",
            "%00%ff%%",
            "x" * 2000,
            "y" * 9_999,
            "javascript:alert(1)",
            "\r\nX-Evil: 1",
            "\x7f\x85",
        ),
    ]
) | st.text(max_size=20)
LENGTHS = st.sampled_from(
    [
        *(
            "0s",
            "0.001s",
            "1s",
            "5m",
            "1217d",
            "2000d",
            "3650d",
            "3650d1s",
            "999999d",
            "99999999h",
            "-1s",
            "1w",
        ),
        *("1.5h", "5ms", "1e9", "", " 5m ", "٣m", "1h" * 40, "PT5M", "P10675199DT2H48M5.4775807S"),
    ]
)
MOMENTS = st.sampled_from(
    [
        *("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999-12:00", "0001-01-01T00:00:00Z"),
        *(
            "0001-01-01T00:00:00+14:00",
            "1970-01-01T00:00:00Z",
            "1800-01-01T00:00:00+00:53",
            "2026-10-25T02:30",
        ),
        *("2026-11-01T12:00:00Z", "10000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "1e30", "-1", "", "now"),
        *("9999-12-31T23:59", "0001-01-01T00:00", "2026-03-29T02:30"),
    ]
)
ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "Pacific/Kiritimati", "Etc/GMT+12", "Europe", "..", ".", "", "/etc/passwd"),
        *("localtime", "posixrules", "a\x00b", "z" * 10_000, "Zürich", "\ud800", "Africa/Monrovia"),
    ]
)
CRONS = st.sampled_from(
    [
        *(
            "0 3 * * *",
            "30 2 * * *",
            "* * * * *",
            "*/7 1-3 * * 0",
            "0 0 29 2 *",
            "0 0 31 2 *",
            "0 0 */31 2 1#5",
        ),
        *(
            "@daily",
            "",
            "a b c d e",
            "0 3 * *",
            "0 3 L * *",
            "0 3 LW * 5L",
            "9" * 190 + " * * * *",
            "1/0 * * * *",
        ),
    ]
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf")]
)
ANY = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none() | LENGTHS | MOMENTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, ANY)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


THRESHOLDS = {field: mostly(LENGTHS | st.none()) for field in ("silent_after", "down_after", "dead_after")}
TAGS = st.lists(TEXTS, max_size=4)
BEATS = some(
    message=mostly(TEXTS), every=mostly(LENGTHS), metadata=mostly(st.dictionaries(TEXTS, ANY, max_size=3))
)
CONFIGS = some(description=mostly(TEXTS), tags=mostly(TAGS), notify=mostly(st.booleans()), **THRESHOLDS)
ONCE = st.fixed_dictionaries({"starts_at": MOMENTS, "ends_at": MOMENTS})
AGAIN = st.fixed_dictionaries({"cron": CRONS, "duration": LENGTHS}, optional={"time_zone": ZONES})
WINDOWS = st.tuples(
    ONCE | AGAIN, some(title=mostly(TEXTS), tags=mostly(TAGS), services=mostly(st.lists(NAMES, max_size=2)))
).map(lambda both: both[0] | both[1])
FORM = st.dictionaries(
    st.sampled_from(
        [
            *(
                "title",
                "services",
                "tags",
                "starts_at",
                "ends_at",
                "cron",
                "duration",
                "time_zone",
                "version",
            ),
            *(
                "description",
                "silent_after",
                "down_after",
                "dead_after",
                "notify",
                "token",
                "next",
                "form_key",
            ),
        ]
    ),
    TEXTS | LENGTHS | MOMENTS | ZONES | CRONS,
    max_size=8,
)
SIGNALS = st.sampled_from(
    ["", "", "/fail", "/start", "/log", "/0", "/255", "/-9999999999", "/KILL", "/nonsense"]
)

# What older versions may have left in the record, within what the contracts of the events take.
OLD_LENGTHS = st.sampled_from(["0.001s", "1s", "5m", "1217d", "3650d"])
OLD_MOMENTS = st.sampled_from(
    ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "2026-11-01T12:00:00Z"]
)
OLD_TEXTS = TEXTS.filter(lambda text: "\ud800" not in text)
OLD_CONFIGS = st.fixed_dictionaries(
    {
        "config": some(
            description=OLD_TEXTS.map(lambda it: it[:2000]),
            tags=st.lists(OLD_TEXTS.filter(bool).map(lambda it: it[:64]), max_size=4),
            paused=st.booleans(),
            every=OLD_LENGTHS,
            **{field: OLD_LENGTHS for field in ("silent_after", "down_after", "dead_after")},
        )
    },
    optional={
        "registered_at": OLD_MOMENTS,
        "declared_at": OLD_MOMENTS,
        "registered_by": st.just("heartbeat"),
    },
)
STATUSES = st.sampled_from(["unknown", "alive", "silent", "down", "dead"])
OLD_CHANGES = st.fixed_dictionaries(
    {
        "from": STATUSES,
        "to": STATUSES,
        "since": OLD_MOMENTS,
        "last_heartbeat": OLD_MOMENTS | st.none(),
        "reason": OLD_TEXTS,
    },
    optional={
        "message": OLD_TEXTS,
        "duration": st.sampled_from([0, 1e9, 1e-9]),
        "doubt": st.just({"stopped": 10**9, "of": 10**9, "within": 10**9}),
    },
)


class Stack(NamedTuple):
    """What runs. `open`: an API without tokens, `guarded`: one with them, both of one record."""

    ingest: str
    open: str
    guarded: str
    client: httpx.Client
    runner: asyncio.Runner
    broker: Any
    logs: list[Path]

    def store(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        async def publish() -> None:
            await self.broker.jetstream().publish(subject, payload, headers=headers)

        self.runner.run(publish())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("pages")
    broker, mongo = nats_server(folder).start(), mongo_server(folder).start()
    url, database = f"nats://127.0.0.1:{broker.port}", f"mongodb://127.0.0.1:{mongo.port}/?journal=true"
    east = {"mongodb_url": database, "timezone": "Pacific/Kiritimati", "status_page": "*"}
    parts: list[Process] = [
        service("ingest", folder, url),
        service("api", folder, url, **east),
        service("api", folder, url, api_token="right", **east),
    ]
    with httpx.Client(timeout=30) as client, asyncio.Runner() as runner:
        for part in parts:
            part.start()
        addresses = [f"http://127.0.0.1:{part.port}" for part in parts]
        for address in addresses:
            while client.get(f"{address}/readyz").status_code != 200:
                pass
        connected = runner.run(nats.connect(url))
        yield Stack(*addresses, client, runner, connected, [part.log for part in parts])
        runner.run(connected.close())
    for server in (*parts, mongo, broker):
        server.kill()


class _Balanced(HTMLParser):
    """Raises AssertionError where an element is closed that is not open."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "x-fuzz", "not escaped"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "x-fuzz", "not escaped"

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, tag


def good(stack: Stack, answer: httpx.Response) -> httpx.Response:
    """Not a server error, and if it is a page, a whole one in which nothing of anybody's is markup."""
    why = "\n".join(log.read_text()[-4000:] for log in stack.logs) if answer.status_code >= 500 else ""
    assert answer.status_code < 500, (
        f"{answer.request.method} {answer.request.url}: {answer.text[:300]}\n{why}"
    )
    assert "x-evil" not in answer.headers
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/html"):
        page = _Balanced()
        page.feed(answer.text)
        page.close()
        assert page.open == [], answer.url
    elif "json" in kind and answer.content:
        json.loads(answer.text, parse_constant=lambda it: pytest.fail(f"{it} is no JSON"))
    elif "svg" in kind:
        assert "<x-fuzz" not in answer.text
    return answer


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


PAGES = (
    *("/", "/?bars=90d", "/status", "/ui/maintenance", "/ui/audit"),
    *("/summary", "/maintenance", "/routes", "/audit", "/services?limit=500"),
)
OF_ONE = (
    *("/ui/service/{}", "/service/{}", "/service/{}/heartbeats", "/service/{}/events", "/badge/{}.svg"),
    *(
        "/service/{}/uptime?window=90d",
        "/badge/{}/uptime.svg",
        "/ui/service/{}/delete",
        "/ui/connect?name={}",
    ),
    "/service/{}?at=2026-11-01T12:00:00Z",
)


def look_at_everything(stack: Stack, name: str) -> None:
    """Every page that can be there is there: 200, or for one that is not registered 404."""
    for path in PAGES:
        answer = good(stack, stack.client.get(stack.open + path))
        assert answer.status_code == 200, path
    for path in OF_ONE:
        answer = good(stack, stack.client.get(stack.open + path.format(name)))
        assert answer.status_code in (200, 404), path


STEPS = st.one_of(
    st.tuples(
        st.just("beat"), SIGNALS, BEATS.map(body) | TEXTS.map(lambda it: it.encode(errors="replace")), LENGTHS
    ),
    st.tuples(st.just("publish"), SIGNALS, BEATS.map(body) | st.binary(max_size=40)),
    st.tuples(st.sampled_from(["PUT", "PATCH"]), CONFIGS),
    st.tuples(st.sampled_from(["DELETE", "pause", "resume"])),
    st.tuples(st.just("window"), WINDOWS),
    st.tuples(st.sampled_from(["edit", "plan", "begin", "login"]), FORM),
    st.tuples(st.just("registered"), OLD_CONFIGS),
    st.tuples(st.just("changed"), OLD_CHANGES),
)


def do(stack: Stack, name: str, step: tuple[Any, ...]) -> None:
    what, *given_ = step
    client, api, path = stack.client, stack.open, f"/service/{name}"
    match what:
        case "beat":
            signal, payload, every = given_
            url = f"{stack.ingest}/heartbeat/{name}{signal}"
            good(stack, client.post(url, content=payload, params={"every": every} if every else None))
        case "publish":
            headers = {"Registry-Signal": given_[0].strip("/")} if given_[0] else None
            stack.store(f"heartbeat.{name}", given_[1], headers)
        case "PUT" | "PATCH":
            good(stack, client.request(what, api + path, content=body(given_[0])))
        case "DELETE":
            good(stack, client.delete(api + path))
        case "pause" | "resume":
            good(stack, client.post(f"{api}{path}/{what}"))
        case "window":
            good(stack, client.post(f"{api}/maintenance", content=body(given_[0])))
        case "login":
            good(stack, client.post(f"{stack.guarded}/ui/login", data=encodable(given_[0])))
        case "edit" | "begin" | "plan":
            form = {"edit": f"/ui{path}/edit", "begin": f"/ui{path}/maintenance", "plan": "/ui/maintenance"}[
                what
            ]
            page = client.get(f"{api}/ui/maintenance").text
            key = re.findall(r'name="form_key" value="(\w+)"', page)[0]
            fields = encodable(given_[0]) | {"form_key": key}
            answer = good(stack, client.post(api + form, data=fields, headers={"Accept": "text/html"}))
            assert answer.status_code in (303, 404, 412, 422), answer.text[:500]
        case "registered" | "changed":
            facet, kind = ("config", "registered") if what == "registered" else ("status", "status_changed")
            event = {
                "specversion": "1.0",
                "id": "x",
                "source": "/api",
                "subject": name,
                "time": "2026-11-01T12:00:00Z",
                "type": f"service.{kind}.v1",
                "data": given_[0],
            }
            stack.store(f"service.{facet}.{name}", body(event))


def encodable(form: dict[str, str]) -> dict[str, str]:
    return {key: value.encode(errors="replace").decode() for key, value in form.items()}


@pytest.mark.timeout(3600)
@fuzzed
@given(name=NAMES, steps=st.lists(STEPS, min_size=3, max_size=6))
def test_whatever_is_set_every_page_is_there(stack: Stack, name: str, steps: list[tuple[Any, ...]]) -> None:
    for step in steps:
        do(stack, name, step)
    look_at_everything(stack, name)


LONG = dict.fromkeys(("silent_after", "down_after", "dead_after"), "3650d")


@pytest.mark.timeout(600)
def test_the_longest_times_are_shown(stack: Stack) -> None:
    """Of each status, with thresholds that follow from an interval: longer than any that is read."""
    for n, status in enumerate(["unknown", "alive", "silent", "down", "dead"]):
        for config in ({"every": "3650d"}, LONG, {"every": "3650d", "tags": ["a,b"]}):
            name, then = f"long{n}.{len(config)}", datetime.now(UTC).isoformat()
            do(stack, name, ("registered", {"config": config, "registered_at": then}))
            change = {"from": "unknown", "to": status, "since": then, "last_heartbeat": then, "reason": MARK}
            do(stack, name, ("publish", "", body({"message": MARK, "every": "3650d"})))
            do(stack, name, ("changed", change))
            do(
                stack,
                name,
                ("window", {"services": [name], "starts_at": then, "ends_at": "9999-12-31T23:59:59Z"}),
            )

    def shown() -> bool:
        page = stack.client.get(f"{stack.open}/services?limit=500").json()["items"]
        return sum(it["name"].startswith("long") and it["status"] != "unknown" for it in page) == 12

    deadline = time.monotonic() + 20
    while not shown():
        assert time.monotonic() < deadline
    for n in range(5):
        for fields in (1, 2, 3):
            look_at_everything(stack, f"long{n}.{fields}")


QUERIES = st.dictionaries(
    st.sampled_from(
        [
            *(
                "limit",
                "cursor",
                "at",
                "window",
                "since",
                "sort",
                "q",
                "tag",
                "status",
                "bars",
                "every",
                "key",
            ),
            *("name", "next", "done", "down", "heartbeats"),
        ]
    ),
    (TEXTS | LENGTHS | MOMENTS | ZONES | NUMBERS.map(str))
    | st.sampled_from(
        ["down", "name", "-since", "WyJuYW1lIiwiYiIsImIiXQ", "W10", "24h", "90d", "a,b", "500"]
    ),
    max_size=4,
)
ANSWERED = (
    *PAGES,
    *OF_ONE,
    "/ui/login",
    "/favicon.svg",
    "/ui/connect",
    "/maintenance/none",
    "/docs",
    "/nothing-here",
    "/service/{}/events",
    "/ui/maintenance",
)


@pytest.mark.timeout(3600)
@settings(fuzzed, max_examples=4 * EXAMPLES)
@given(
    path=st.sampled_from(ANSWERED),
    name=NAMES | TEXTS,
    query=QUERIES,
    accept=st.sampled_from(["text/html", "*/*"]),
    guarded=st.booleans(),
    headers=some(**{"If-Match": TEXTS, "Last-Event-ID": TEXTS, "Cookie": TEXTS, "Authorization": TEXTS}),
)
def test_whatever_is_asked_is_answered(
    stack: Stack,
    path: str,
    name: str,
    query: dict[str, str],
    accept: str,
    guarded: bool,
    headers: dict[str, str],
) -> None:
    address = stack.guarded if guarded else stack.open
    sent = {key: re.sub(r"[^\x20-\x7e]", "?", value).strip()[:500] for key, value in headers.items()}
    url = httpx.URL(address + path.partition("?")[0].format(_path(name)), params=encodable(query))
    if len(url.raw_path) < 4000:
        good(stack, stack.client.get(url, headers={"Accept": accept} | sent))


def _path(name: str) -> str:
    return "".join(f"%{byte:02x}" for byte in name.encode(errors="replace")) or "-"
