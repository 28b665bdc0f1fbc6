"""What may be done about an incident over HTTP, and what is told of it, with a real broker and database."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import httpx
import pytest

from shared.contracts.events import ServiceTold, Status, StatusData, Told, status_changed
from shared.domain import incidents
from shared.domain.incidents import IncidentState
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from tests.integration.test_api import _api, client_of, contents, eventually, link, publisher, register, shows
from tests.servers import Process

__all__ = ["link", "publisher"]

TOKENS = "ana:anas-secret-of-24-letters,ben:bens-secret-of-24-letters"
ANA, BEN = ({"Authorization": f"Bearer {each}"} for each in TOKENS.split(","))
READER = {"Authorization": "Bearer reads-with-24-letters-only"}
UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


def start(tmp_path: Any, nats_url: str, mongo_url: str) -> Process:
    tmp_path.mkdir(exist_ok=True)
    read = READER["Authorization"].removeprefix("Bearer ")
    return _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKENS, READ_TOKEN=read).start()


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = start(tmp_path, nats_url, mongo_url)
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        client.headers.update(ANA)
        yield client


class Monitor:
    """Stores changes as the monitor does."""

    def __init__(self, publisher: Publisher, name: str) -> None:
        self._publisher, self._name = publisher, name
        self._seq, self.status = 0, UNKNOWN

    async def change(self, *path: Status, since: datetime | None = None) -> str:
        """The id of the last of these changes."""
        for to in path:
            data = StatusData(
                from_=self.status,
                to=to,
                since=since or datetime.now(UTC),
                last_heartbeat=None,
                reason="a test",
            )
            event = status_changed(self._name, data)
            subject = streams.status(self._name)
            ack = await self._publisher.append(
                subject, event.to_bytes(), after=self._seq, event_id=event.id, kind=event.type
            )
            self._seq, self.status = ack.seq, to
        return event.id


@pytest.fixture
async def monitor(publisher: Publisher) -> Monitor:
    await register(publisher, "web", tags=("shop",))
    return Monitor(publisher, "web")


async def test_somebody_has_it_in_hand_until_it_is_alive(client: httpx.AsyncClient, monitor: Monitor) -> None:
    await monitor.change(ALIVE)
    calm = await shows(client, "web", status="alive")
    assert (calm["incident"], calm["muted"]) == (None, None)
    for method, path in (("POST", "ack"), ("DELETE", "ack")):
        answer = await client.request(method, f"/service/web/{path}")
        assert (answer.status_code, answer.json()["detail"]) == (409, "web has no incident")
    assert (await client.post("/service/web/mute", json={"until_alive": True})).status_code == 409

    first = await monitor.change(SILENT)
    await monitor.change(DOWN)
    down = await shows(client, "web", status="down")
    assert down["incident"]["id"] == first, "from when it left alive"
    assert down["incident"]["acknowledged"] is None
    answer = (await client.post("/service/web/ack", json={"note": "on it"})).json()
    assert (await client.get("/service/web")).json() == answer, "what was written is read"
    by = answer["incident"]["acknowledged"]
    assert (by["by"], by["note"]) == ("token:ana", "on it")
    again = await client.post("/service/web/ack")
    assert again.json()["incident"]["acknowledged"] == by, "once is enough"
    taken = await client.post("/service/web/ack", headers=BEN)
    assert (taken.status_code, taken.json()["by"]) == (409, "token:ana")

    await monitor.change(DEAD)
    dead = await shows(client, "web", status="dead")
    assert dead["incident"] == answer["incident"], "it only went further down"
    released = await client.delete("/service/web/ack", headers=BEN)
    assert released.json()["incident"]["acknowledged"] is None
    assert (await client.post("/service/web/ack", headers=BEN)).status_code == 200
    await monitor.change(ALIVE)
    assert (await shows(client, "web", status="alive"))["incident"] is None
    second = await monitor.change(DOWN)
    again = await shows(client, "web", status="down")
    assert again["incident"] == {
        "id": second,
        "began_at": again["since"],
        "acknowledged": None,
    }, "the next begins without"


async def test_of_two_who_have_it_at_once_one_is_told_who_was_faster(
    client: httpx.AsyncClient, monitor: Monitor, tmp_path: Any, nats_url: str, mongo_url: str
) -> None:
    second = start(tmp_path / "second", nats_url, mongo_url)
    try:
        async with client_of(second) as other:
            await eventually(lambda: _is_ready(other))
            for _ in range(12):
                await monitor.change(ALIVE, DOWN)  # they press before it is shown
                answers = await asyncio.gather(
                    client.post("/service/web/ack", headers=ANA),
                    other.post("/service/web/ack", headers=BEN),
                )
                assert sorted(answer.status_code for answer in answers) == [200, 409]
                won = answers[0].status_code == 200
                loser = answers[won]
                assert loser.json()["by"] == ("token:ana" if won else "token:ben")
    finally:
        second.kill()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def test_a_mute_holds_for_a_time_or_until_it_is_alive(
    client: httpx.AsyncClient, monitor: Monitor
) -> None:
    await monitor.change(ALIVE, DOWN)
    await shows(client, "web", status="down")
    before = datetime.now(UTC)
    muted = (await client.post("/service/web/mute", json={"for": "2h"})).json()["muted"]
    assert sorted(muted) == ["at", "by", "until"]
    until = datetime.fromisoformat(muted["until"])
    assert before + timedelta(hours=2) <= until <= datetime.now(UTC) + timedelta(hours=2)
    alive = (await client.post("/service/web/mute", json={"until_alive": True}, headers=BEN)).json()["muted"]
    assert (alive["until_alive"], alive["by"]) == (True, "token:ben")
    await monitor.change(ALIVE)
    assert (await shows(client, "web", status="alive"))["muted"] is None

    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert (await client.post("/service/web/mute", json={"until": soon})).json()["muted"]
    await eventually(lambda: _is_unmuted(client))
    await client.post("/service/web/mute", json={"for": "1h"})
    assert (await client.delete("/service/web/mute")).json()["muted"] is None
    assert (await client.delete("/service/web/mute")).status_code == 200, "it is so already"


async def _is_unmuted(client: httpx.AsyncClient) -> bool:
    return (await client.get("/service/web")).json()["muted"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"for": "2h", "until_alive": True},
        {"until_alive": False},
        {"until_alive": 1},
        {"for": "31d"},
        {"for": "0s"},
        {"for": 7200},
        {"until": "2020-01-01T00:00:00Z"},
        {"until": "soon"},
        {"till": "2h"},
    ],
)
async def test_a_mute_has_one_end_to_come(
    client: httpx.AsyncClient, monitor: Monitor, body: dict[str, Any]
) -> None:
    assert (await client.post("/service/web/mute", json=body)).status_code == 422


async def test_who_may_not_write_does_nothing(client: httpx.AsyncClient, monitor: Monitor) -> None:
    incident = await monitor.change(DOWN)
    await shows(client, "web", status="down")
    for headers, status in ((READER, 403), ({"Authorization": "Bearer wrong"}, 401)):
        for method, path in (
            ("POST", "/service/web/ack"),
            ("DELETE", "/service/web/ack"),
            ("POST", "/service/web/mute"),
            ("DELETE", "/service/web/mute"),
            ("POST", f"/incident/{incident}/notes"),
        ):
            answer = await client.request(method, path, json={}, headers=headers)
            assert answer.status_code == status, path
    assert (await client.get("/incidents", headers=READER)).status_code == 200
    for method, path in (("POST", "/service/no/ack"), ("DELETE", "/service/no/mute")):
        assert (await client.request(method, path)).status_code == 404


async def test_what_happened_in_an_incident_is_told_in_order(
    client: httpx.AsyncClient, monitor: Monitor, publisher: Publisher, api: Process, mongo_url: str
) -> None:
    await monitor.change(ALIVE)
    id_ = await monitor.change(SILENT)
    await monitor.change(DOWN)
    await shows(client, "web", status="down")
    await client.post("/service/web/ack", json={"note": "on it"})
    await client.post(f"/incident/{id_}/notes", json={"text": "the disk is full"})
    await tell(publisher, "web", id_, DOWN)
    await client.post("/service/web/mute", json={"until_alive": True})
    await client.delete("/service/web/ack")
    await client.post("/service/web/ack", headers=BEN)
    await monitor.change(ALIVE)
    await tell(publisher, "web", id_, ALIVE)
    await shows(client, "web", status="alive")
    other = await monitor.change(DOWN)
    await shows(client, "web", status="down")
    late = await client.post(f"/incident/{id_}/notes", json={"text": "bought a larger one"})
    assert late.status_code == 201

    def checked(found: dict[str, Any]) -> None:
        said = [(it["type"].split(".")[1], it["actor"]) for it in found["events"]]
        assert said == [
            ("status_changed", None),
            ("status_changed", None),
            ("acknowledged", "token:ana"),
            ("noted", "token:ana"),
            ("told", None),
            ("muted", "token:ana"),
            ("released", "token:ana"),
            ("acknowledged", "token:ben"),
            ("status_changed", None),
            ("told", None),
            ("noted", "token:ana"),
        ]
        assert [it["data"] for it in found["events"] if it["type"] == "service.noted.v1"] == [
            {"note": "the disk is full"},
            {"note": "bought a larger one"},
        ]
        assert found["events"][4]["data"]["told"]["channel"] == "ops"
        assert found["acknowledged"]["by"] == "token:ben"
        assert found["began_at"] < found["ended_at"]

    checked((await client.get(f"/incident/{id_}")).json())
    history = (await client.get("/service/web/events")).json()["items"]
    assert [it["type"].split(".")[1] for it in history].count("told") == 0
    assert {"noted", "muted", "released"} < {it["type"].split(".")[1] for it in history}
    assert (await client.get("/incident/none")).status_code == 404

    listed = (await client.get("/incidents")).json()["items"]
    assert [it["id"] for it in listed] == [other, id_]
    assert [it["ended_at"] is None for it in listed] == [True, False]
    for query, expected in (
        ("open=true", [other]),
        ("open=false", [id_]),
        ("service=web", [other, id_]),
        ("service=no", []),
        ("tag=shop", [other, id_]),
        ("tag=shop&open=true", [other]),
        ("tag=other", []),
        ("since=2099-01-01T00:00:00Z", []),
    ):
        page = (await client.get(f"/incidents?{query}")).json()
        assert [it["id"] for it in page["items"]] == expected, query
    paged = []
    cursor = ""
    while True:
        page = (await client.get(f"/incidents?limit=1{cursor}")).json()
        paged += [it["id"] for it in page["items"]]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
    assert paged == [other, id_]
    for bad in ("cursor=x", "service=a%20b", "open=perhaps", "limit=0"):
        assert (await client.get(f"/incidents?{bad}")).status_code == 422, bad

    await publisher._link.nc.request(streams.REBUILD, b"", timeout=30)
    checked((await client.get(f"/incident/{id_}")).json())
    state = (await client.get("/service/web")).json()
    assert state["incident"]["id"] == other
    audited = (await client.get("/audit?service=web")).json()["items"]
    assert {it["type"].split(".")[1] for it in audited} >= {"acknowledged", "released", "muted", "noted"}
    assert {field["field"] for it in audited for field in it["changes"]} >= {"acknowledged", "muted", "note"}

    await client.delete("/service/web")
    checked((await client.get(f"/incident/{id_}")).json())
    ended = (await client.get(f"/incident/{other}")).json()
    assert ended["events"][-1]["type"] == "service.deleted.v1"
    length = datetime.fromisoformat(ended["ended_at"]) - datetime.fromisoformat(ended["began_at"])
    assert ended["seconds"] == pytest.approx(length.total_seconds(), abs=1e-3)
    assert [it["id"] for it in (await client.get("/incidents?open=false")).json()["items"]] == [other, id_]
    assert (await client.post(f"/incident/{id_}/notes", json={"text": "late"})).status_code == 404
    assert (await client.post("/service", json={"name": "web"})).status_code == 201
    assert (await client.post(f"/incident/{id_}/notes", json={"text": "  "})).status_code == 422
    late = await client.post(f"/incident/{id_}/notes", json={"text": " late "})
    assert late.json()["events"][-1]["data"]["note"] == "late"
    kept = (await client.get("/audit?service=web")).json()["items"]
    assert {it["type"] for it in kept} >= {"service.acknowledged.v1", "service.noted.v1"}
    before = await contents(mongo_url)
    await publisher._link.nc.request(streams.REBUILD, b"", timeout=30)
    assert await contents(mongo_url) == before


async def test_the_audit_says_what_each_made_another_and_nothing_else(
    client: httpx.AsyncClient, monitor: Monitor, publisher: Publisher
) -> None:
    first = await monitor.change(DOWN)
    await shows(client, "web", status="down")
    await client.post("/service/web/mute", json={"for": "1h"})
    await client.post("/service/web/ack")
    await client.post(f"/incident/{first}/notes", json={"text": "n"})
    await tell(publisher, "web", first, DOWN)
    await client.delete("/service/web/mute")
    await client.post("/service/web/mute", json={"until_alive": True})
    await client.delete("/service/web/ack")
    await client.post("/service/web/ack", headers=BEN)
    await monitor.change(ALIVE, DOWN)
    await eventually(lambda: _has_another(client, first))
    await client.post("/service/web/ack")
    await client.post("/service/web/mute", json={"for": "2h"})

    def in_words(field: dict[str, Any] | str | None) -> str | None:
        if not isinstance(field, dict):
            return field
        return str(field["by"]) if "note" in field else "alive" if field["until_alive"] else "time"

    audited = (await client.get("/audit?service=web")).json()["items"]
    assert [
        (
            it["type"].split(".")[1],
            [(c["field"], in_words(c["before"]), in_words(c["after"])) for c in changes],
        )
        for it in reversed(audited)
        if (changes := it["changes"])
    ] == [
        ("muted", [("muted", None, "time")]),
        ("acknowledged", [("acknowledged", None, "token:ana")]),
        ("noted", [("note", None, "n")]),
        ("unmuted", [("muted", "time", None)]),
        ("muted", [("muted", None, "alive")]),
        ("released", [("acknowledged", "token:ana", None)]),
        ("acknowledged", [("acknowledged", None, "token:ben")]),
        ("acknowledged", [("acknowledged", None, "token:ana")]),
        ("muted", [("muted", None, "time")]),
    ]
    page = (await client.get("/ui/audit", headers={"Accept": "text/html"})).text
    assert "<b>In hand of</b> ana → <i>nothing</i>" in page
    assert "<b>Muted</b> <i>nothing</i> → until it is alive" in page
    assert "until_alive" not in page, "in words, and not as it is stored"


async def _has_another(client: httpx.AsyncClient, incident: str) -> bool:
    current = (await client.get("/service/web")).json()["incident"]
    return current is not None and current["id"] != incident


async def test_what_happened_in_one_is_found_without_reading_what_happened_in_others(
    monitor: Monitor, client: httpx.AsyncClient, mongo_url: str
) -> None:
    from pymongo import MongoClient

    id_ = await monitor.change(DOWN)
    await shows(client, "web", status="down")
    await client.post("/service/web/ack")
    await monitor.change(ALIVE)
    await shows(client, "web", status="alive")

    async def best(path: str) -> float:
        times = []
        for _ in range(5):
            began = perf_counter()
            assert (await client.get(path)).status_code == 200
            times.append(perf_counter() - began)
        return min(times)

    paths = f"/incident/{id_}", "/incidents?open=false", "/audit?service=web", "/service/web/events"
    before = {path: await best(path) for path in paths}
    with MongoClient[dict[str, Any]](mongo_url) as mongo:
        others = ({"_id": 10_000 + n, "name": f"s{n % 500}", "type": "x", "data": {}} for n in range(60_000))
        mongo["registry"]["events_g1"].insert_many(others)

    for path in paths:
        assert await best(path) < 4 * before[path] + 0.015, path


async def tell(publisher: Publisher, name: str, incident: str, status: Status) -> None:
    """As the notifier does, which carries on what holds."""
    message = await _newest(publisher, name)
    now = datetime.now(UTC)
    state = IncidentState(exists=True)
    after = 0
    if message:
        event = streams.read_incident(streams.incident(name), message.data)
        incidents.apply(state, event, message.seq, message.at)
        after = message.seq
    data = incidents.told(state, now, Told(channel="ops", at=now, status=status, what="change"), incident)
    data = data.model_copy(update={"acknowledged": state.last_acknowledgement, "muted": state.last_mute})
    event = ServiceTold(id=f"told-{now.isoformat()}", source="/notifier", subject=name, time=now, data=data)
    subject = streams.incident(name)
    await publisher.append(subject, event.to_bytes(), after=after, event_id=event.id, kind=event.type)


async def _newest(publisher: Publisher, name: str) -> Any:
    from shared.messaging.queries import newest

    return await newest(publisher._link, streams.SERVICES, streams.incident(name))


async def test_as_of_a_moment(client: httpx.AsyncClient, monitor: Monitor) -> None:
    await monitor.change(ALIVE, DOWN)
    await shows(client, "web", status="down")
    before = datetime.now(UTC)
    await client.post("/service/web/ack")
    between = datetime.now(UTC)
    await monitor.change(ALIVE)
    await shows(client, "web", status="alive")

    async def at(moment: datetime) -> Any:
        found = await client.get("/service/web", params={"at": moment.isoformat()})
        return found.json()["incident"]

    assert (await at(before))["acknowledged"] is None
    assert (await at(between))["acknowledged"]["by"] == "token:ana"
    assert await at(datetime.now(UTC)) is None


async def test_an_older_version_s_read_models_are_built_anew(
    monitor: Monitor, tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    id_ = await monitor.change(SILENT)
    await monitor.change(DOWN)
    first = start(tmp_path / "a", nats_url, mongo_url)
    try:
        async with client_of(first) as client:
            client.headers.update(ANA)
            await shows(client, "web", status="down")
    finally:
        first.kill()
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]](mongo_url) as mongo:
        database = mongo["registry"]
        [services] = [it for it in database.list_collection_names() if it.startswith("services_g")]
        [points] = [it for it in database.list_collection_names() if it.startswith("checkpoints_g")]
        database[services].update_one({"_id": "web"}, {"$unset": {"begun": 1}})
        database[points].update_one({"_id": "record"}, {"$unset": {"form": 1}})
    second = start(tmp_path / "b", nats_url, mongo_url)
    try:
        async with client_of(second) as client:
            client.headers.update(ANA)
            found = await shows(client, "web", status="down")
            assert found["incident"]["id"] == id_
    finally:
        second.kill()


async def test_the_summary_says_what_is_muted_in_maintenance_and_in_hand(
    client: httpx.AsyncClient, monitor: Monitor, publisher: Publisher
) -> None:
    await register(publisher, "db")
    await monitor.change(ALIVE, DOWN)
    await shows(client, "web", status="down")
    now = datetime.now(UTC)
    window = {
        "tags": ["shop"],
        "starts_at": now.isoformat(),
        "ends_at": (now + timedelta(hours=1)).isoformat(),
    }
    assert (await client.post("/maintenance", json=window)).status_code == 201
    for name in ("web", "db"):
        await client.post(f"/service/{name}/mute", json={"for": "1h"})
    await client.post("/service/web/ack")
    summary = (await client.get("/summary")).json()
    assert (summary["muted"], summary["maintenance"]) == (2, 1)
    said = summary["next_digest"]["text"]
    assert "🔕 2 muted · 🔧 1 in maintenance" in said
    assert ", ✋ ana" in said
    await client.post("/service/db/pause")
    assert (await client.get("/summary")).json()["muted"] == 1, "it is paused, and nothing else"


async def submit(client: httpx.AsyncClient, action: str, **form: str) -> httpx.Response:
    page = await client.get("/ui/service/web", headers={"Accept": "text/html"})
    key = re.findall(r'name="form_key" value="(\w+)"', page.text)[0]
    return await client.post(f"/ui/service/web/{action}", data=form | {"form_key": key})


async def test_the_page_s_forms_do_what_the_api_does(client: httpx.AsyncClient, monitor: Monitor) -> None:
    id_ = await monitor.change(ALIVE, DOWN)
    await shows(client, "web", status="down")
    answer = await client.post("/ui/login", data={"token": TOKENS.split(",")[0]})
    client.headers.pop("Authorization")
    client.cookies.set("registry_session", answer.cookies["registry_session"])

    async def page() -> str:
        return html.unescape((await client.get("/ui/service/web")).text)

    assert "Nobody has it in hand." in await page()
    assert (await client.post("/ui/service/web/ack", data={"note": "x"})).status_code == 403, (
        "without its key"
    )
    assert (await submit(client, "ack", note="the disk is full")).status_code == 303
    assert "✋ <b>ana</b> has it since" in (said := await page())
    assert "the disk is full" in said
    assert "✋ ana</span>" in (await client.get("/")).text
    assert (await submit(client, "note", incident=id_, text="<b>moved</b> the dumps")).status_code == 303
    assert "note: &lt;b&gt;moved&lt;/b&gt; the dumps" in (await client.get("/ui/service/web")).text
    assert (await submit(client, "note", incident="none", text="x")).status_code == 404
    assert (await submit(client, "note", incident=id_, text="")).status_code == 422
    assert (await submit(client, "mute", length="until_alive")).status_code == 303
    assert "until it is alive again" in await page()
    assert (await submit(client, "unmute")).status_code == 303
    assert (await submit(client, "mute", length="99d")).status_code == 422
    assert (await submit(client, "mute", length="8h")).status_code == 303
    assert "🔕 muted</span>" in (await client.get("/")).text
    assert (await submit(client, "release")).status_code == 303
    assert "Nobody has it in hand." in await page()
    await monitor.change(ALIVE)
    await shows(client, "web", status="alive")
    refused = await submit(client, "ack")
    assert (refused.status_code, "web has no incident" in refused.text) == (409, True)
