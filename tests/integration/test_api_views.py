"""What the API tells of the past, and as it happens; badges, the status page, forms and who may send them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.api.queries import event_hub
from shared.contracts.events import SOURCE_HEADER, Status
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from tests import fleets
from tests.integration.test_api import (
    _api,
    api,
    change,
    client,
    client_of,
    eventually,
    link,
    now,
    publisher,
    refused,
    register,
)
from tests.servers import Process

ALIVE, SILENT, DOWN = Status.ALIVE, Status.SILENT, Status.DOWN
Client = httpx.AsyncClient
Messages = AsyncIterator[dict[str, Any]]


async def there(client: Client, name: str, status: str | None = None) -> None:
    async def is_there() -> bool:
        answer = await client.get(f"/service/{name}")
        return answer.status_code == 200 and status in (None, answer.json()["status"])

    await eventually(is_there)


async def test_uptime_over_each_window(client: Client, publisher: Publisher) -> None:
    at = now()
    hours = timedelta(hours=1)
    await fleets.heard_since(publisher, at - 40 * timedelta(days=1))
    fleet = fleets.Past(
        "web",
        at - 50 * timedelta(days=1),
        [
            (at - 50 * timedelta(days=1), ALIVE, "heartbeat"),
            (at - 20 * timedelta(days=1), DOWN, "it failed"),
            (at - 19 * timedelta(days=1), ALIVE, "heartbeat"),
            (at - 12 * hours, DOWN, "it failed"),
            (at - 6 * hours, ALIVE, "heartbeat"),
        ],
    )
    await fleets.write(publisher, [fleet])
    await there(client, "web", "alive")

    async def covered() -> bool:
        return (await client.get("/service/web/uptime")).json()["seconds"]["unobserved"] < 60

    await eventually(covered)
    day = (await client.get("/service/web/uptime?window=24h")).json()
    assert day["uptime"] == pytest.approx(0.75, abs=0.01)
    assert day["seconds"]["down"] == pytest.approx(6 * 3600, abs=5)
    month = (await client.get("/service/web/uptime?window=30d")).json()
    assert month["seconds"]["down"] == pytest.approx(30 * 3600, abs=5)
    quarter = (await client.get("/service/web/uptime?window=90d")).json()
    assert quarter["seconds"]["unobserved"] == pytest.approx(10 * 86400, abs=60)
    assert quarter["seconds"]["alive"] == pytest.approx((40 * 24 - 30) * 3600, abs=60)
    assert datetime.fromisoformat(quarter["from"]) == pytest.approx(
        fleet.registered_at, abs=timedelta(seconds=1)
    )
    refused(await client.get("/service/web/uptime?window=2d"), 422)
    refused(await client.get("/service/nobody/uptime"), 404)
    await client.post("/service/web/pause")
    await asyncio.sleep(0.5)
    assert (await client.get("/service/web/uptime")).json()["seconds"]["paused"] >= 0.4


async def test_the_state_as_of_a_moment(client: Client, publisher: Publisher) -> None:
    before = now()
    await client.post("/service", json={"name": "web", "description": "first"})
    await asyncio.sleep(0.05)
    fell = now()
    seq = await change(publisher, "web", DOWN, 0, since=fell)
    await asyncio.sleep(0.05)
    first = now()
    await client.patch("/service/web", json={"description": "second", "silent_after": "5m"})
    await asyncio.sleep(0.05)
    await change(publisher, "web", ALIVE, seq, since=now() - timedelta(milliseconds=1))
    await asyncio.sleep(0.05)
    second = now()
    await client.delete("/service/web")
    await asyncio.sleep(0.05)
    deleted = now()

    async def as_of(moment: datetime) -> Any:
        return (await client.get("/service/web", params={"at": moment.isoformat()})).json()

    then = await as_of(first)
    assert (then["status"], then["description"]) == ("down", "first")
    assert then["thresholds"]["silent_after"] == "15m"
    then = await as_of(fell - timedelta(milliseconds=10))
    assert then["status"] == "unknown"
    then = await as_of(second)
    assert (then["status"], then["description"]) == ("alive", "second")
    assert then["thresholds"]["silent_after"] == "5m"
    for moment in (before, deleted):
        refused(await client.get("/service/web", params={"at": moment.isoformat()}), 404)
    for bad in ("yesterday", "2026-11-01T12:00:00", ""):
        refused(await client.get("/service/web", params={"at": bad}), 422)


async def test_what_was_heard_is_shown_soon(client: Client, publisher: Publisher) -> None:
    """However soon after the one before it: ten in a row, each as soon as the last is there."""
    await client.post("/service", json={"name": "web"})
    began = asyncio.get_running_loop().time()
    for n in range(10):
        await publisher.publish(streams.heartbeat("web"), json.dumps({"message": f"step {n}"}).encode())

        async def is_shown(message: str = f"step {n}") -> bool:
            return bool((await client.get("/service/web")).json()["message"] == message)

        await eventually(is_shown)
    assert asyncio.get_running_loop().time() - began < 6, "half a second each, and some for a slow machine"


async def test_the_last_heartbeats(client: Client, publisher: Publisher) -> None:
    subject = streams.heartbeat("job")
    refused(await client.get("/service/job/heartbeats"), 404)
    await register(publisher, "job")
    await there(client, "job")
    await publisher.publish(subject, b"", {"Registry-Signal": "start", SOURCE_HEADER: "http"})
    await asyncio.sleep(0.2)
    said = json.dumps({"message": "done", "every": "5m", "metadata": {"n": 1}}).encode()
    await publisher.publish(subject, said, {SOURCE_HEADER: "http"})
    await publisher.publish(subject, b"{", None)
    await publisher.publish(subject, b"", {"Registry-Signal": "fail", "Registry-Exit-Code": "3"})
    fail, odd, done, start = (await client.get("/service/job/heartbeats")).json()["items"]
    assert (fail["signal"], fail["exit_code"], fail["source"], fail["duration"]) == ("fail", 3, "nats", None)
    assert (done["message"], done["every"], done["metadata"]) == ("done", "5m", {"n": 1})
    assert done["duration"] == pytest.approx(0.2, abs=0.15)
    assert (odd["signal"], odd["message"]) == ("success", "{")
    assert (start["signal"], start["source"]) == ("start", "http")
    assert len((await client.get("/service/job/heartbeats?limit=1")).json()["items"]) == 1


@asynccontextmanager
async def listening(
    client: Client, query: str = "", **headers: str
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with client.stream("GET", f"/events{query}", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> Messages:
            message: dict[str, Any] = {}
            async for line in answer.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "data":
                    message["data"] = json.loads(value)
                elif field in ("id", "event"):
                    message[field] = value
                elif not line and "data" in message:
                    yield message
                    message = {}

        yield messages()


async def test_events_come_as_they_happen_and_can_be_gone_on_with(
    client: Client,
    publisher: Publisher,
) -> None:
    async with listening(client) as events:
        await client.post("/service", json={"name": "web"})
        made = await asyncio.wait_for(anext(events), 5)
        assert made["data"]["type"] == "service.registered.v1"
        assert made["data"]["service"] == "web"
        assert int(made["id"]) == made["data"]["seq"]
        assert "event" not in made
        await change(publisher, "web", DOWN, 0)
        fell = await asyncio.wait_for(anext(events), 5)
        assert fell["data"]["data"]["to"] == "down"
    await client.patch("/service/web", json={"description": "x"})
    await client.post("/service/web/pause")
    for headers, query in (({"Last-Event-ID": made["id"]}, ""), ({}, f"?after={made['id']}")):
        async with listening(client, query, **headers) as events:
            found = [await asyncio.wait_for(anext(events), 5) for _ in range(3)]
        assert [it["data"]["type"].split(".")[1] for it in found] == ["status_changed", "updated", "paused"]
        assert found[0] == fell
    async with listening(client, **{"Last-Event-ID": "0"}) as events:
        assert await asyncio.wait_for(anext(events), 5) == made
    refused(await client.get("/events", headers={"Last-Event-ID": "abc"}), 422)
    async with listening(client, "?heartbeats=true") as events:
        await publisher.publish(streams.heartbeat("web"))
        heard = await asyncio.wait_for(anext(events), 5)
        assert heard["event"] == "heartbeats"
        assert list(heard["data"]) == ["web"]


async def test_events_that_memory_has_let_go_of_come_from_the_record(
    tmp_path: Any,
    nats_url: str,
    mongo_url: str,
    publisher: Publisher,
) -> None:
    count = event_hub.KEPT + 500
    for start in range(0, count, 500):
        await asyncio.gather(*(register(publisher, f"s{n}") for n in range(start, start + 500)))
    process = _api(tmp_path, nats_url, mongo_url).start()
    try:
        async with client_of(process) as client:
            async with listening(client, **{"Last-Event-ID": "3"}) as events:
                ids = [int((await asyncio.wait_for(anext(events), 20))["id"]) for _ in range(count - 3)]
            assert ids == list(range(4, count + 1))
    finally:
        process.kill()


async def test_it_stops_at_once_though_somebody_listens(client: Client, api: Process) -> None:
    async with listening(client):
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(api.stop)
        assert asyncio.get_running_loop().time() - began < 6


async def test_badges(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN="all").start()
    try:
        async with client_of(process) as client:
            admin = {"Authorization": "Bearer all"}
            await client.post("/service", json={"name": "a.b"}, headers=admin)
            refused(await client.get("/badge/a.b.svg"), 401)
            refused(await client.get("/badge/a.b.svg?key=wrong"), 401)
            page = await client.get("/ui/service/a.b", headers=admin | {"Accept": "text/html"})
            (key,) = set(re.findall(r"\?key=(\w+)", page.text))
            answer = await client.get(f"/badge/a.b.svg?key={key}")
            assert answer.headers["content-type"] == "image/svg+xml"
            assert "max-age=10" in answer.headers["cache-control"]
            assert "unknown" in answer.text
            assert "no data" in (await client.get(f"/badge/a.b/uptime.svg?key={key}&window=7d")).text
            refused(await client.get(f"/badge/other.svg?key={key}"), 401)
            refused(await client.get(f"/services?key={key}"), 401)
            refused(await client.get("/badge/nobody.svg", headers=admin), 404)
    finally:
        process.kill()


async def test_several_tokens_and_a_public_status_page(
    tmp_path: Any, nats_url: str, mongo_url: str, publisher: Publisher
) -> None:
    variables = {"API_TOKEN": "new,old", "READ_TOKEN": "look", "STATUS_PAGE": "public"}
    process = _api(tmp_path, nats_url, mongo_url, **variables).start()
    try:
        async with client_of(process) as client:
            for name, tags in (("shown", ["public"]), ("secret", ["inner"])):
                for token in ("new", "old"):
                    headers = {"Authorization": f"Bearer {token}"}
                    made = await client.post("/service", json={"name": name, "tags": tags}, headers=headers)
                    assert made.status_code == (201 if token == "new" else 409)
            refused(await client.get("/services", headers={"Authorization": "Bearer new,old"}), 401)
            page = await client.get("/status", headers={"Accept": "text/html"})
            assert page.status_code == 200
            assert "shown" in page.text
            assert "secret" not in page.text
            answer = await client.get("/", headers={"Accept": "text/html"})
            assert answer.status_code == 303
            assert answer.headers["location"] == "/ui/login?next=%2F"
            refused(await client.get("/"), 401)
            await change(publisher, "secret", DOWN, 0)
            await asyncio.sleep(0.5)
            for path in ("/ui/login", "/nowhere"):
                page = await client.get(path, headers={"Accept": "text/html"})
                assert "<title>" in page.text
                assert "1 down" not in page.text
                assert "down=1" not in page.text
            refused(await client.post("/ui/login", content=b"token=" + b"x" * 1_048_576), 413)
            refused(await client.post("/ui/login", content=b"&".join([b"a=1"] * 30)), 422)
            for target in (
                "https://evil.example",
                "//evil.example",
                "/\\evil.example",
                "javascript:alert(1)",
            ):
                given = {"token": "new", "next": target}
                answer = await client.post("/ui/login", data=given)
                assert answer.headers["location"] == "/", target
                client.cookies.clear()
    finally:
        process.kill()


async def test_forms_are_only_of_our_own_pages(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN="all").start()
    try:
        async with client_of(process) as client:
            await client.post("/service", json={"name": "web"}, headers={"Authorization": "Bearer all"})
            await client.post("/ui/login", data={"token": "all"})
            assert "registry_session" in client.cookies
            page = await client.get("/ui/service/web", headers={"Accept": "text/html"})
            key = re.findall(r'name="form_key" value="(\w+)"', page.text)[0]
            for form in ({}, {"form_key": ""}, {"form_key": "a" * 64}):
                refused(await client.post("/ui/service/web/pause", data=form), 403)
            elsewhere = {"Sec-Fetch-Site": "cross-site"}
            refused(
                await client.post("/ui/service/web/pause", data={"form_key": key}, headers=elsewhere), 403
            )
            refused(await client.post("/service/web/pause"), 401)
            answer = await client.post("/ui/service/web/pause", data={"form_key": key})
            assert answer.status_code == 303
            assert (await client.get("/service/web")).json()["paused"]
            forged = {"registry_session": client.cookies["registry_session"][:-2] + "xx"}
            client.cookies.clear()
            client.cookies.update(forged)
            refused(await client.get("/services"), 401)
            refused(await client.post("/ui/service/web/resume", data={"form_key": key}), 403)
    finally:
        process.kill()


async def test_maintenance_windows(client: Client) -> None:
    at = datetime.now(UTC)
    wanted = {
        "title": "Move",
        "services": ["web"],
        "starts_at": (at - timedelta(hours=1)).isoformat(),
        "ends_at": (at + timedelta(hours=1)).isoformat(),
    }
    made = await client.post("/maintenance", json=wanted)
    assert made.status_code == 201
    path, etag = made.headers["location"], made.headers["etag"]
    assert made.json()["active"]
    assert (await client.get(path)).json() == made.json()
    later = wanted | {"starts_at": (at + timedelta(minutes=30)).isoformat()}
    changed = await client.put(path, json=later, headers={"If-Match": etag})
    assert changed.status_code == 200
    assert not changed.json()["active"]
    refused(await client.put(path, json=wanted, headers={"If-Match": etag}), 412)
    weekly = {"tags": ["db"], "cron": "0 3 * * sun", "duration": "2h", "time_zone": "Europe/Berlin"}
    assert (await client.post("/maintenance", json=weekly)).status_code == 201
    listed = (await client.get("/maintenance")).json()["items"]
    assert [it["window"]["title"] for it in listed] == ["Move", ""]
    refused(await client.post("/maintenance", json={"services": ["web"]}), 422)
    refused(await client.post("/maintenance", json=weekly | {"cron": "0 0 30 2 *"}), 422)
    refused(await client.delete(path, headers={"If-Match": etag}), 412)
    assert (await client.delete(path)).status_code == 204
    refused(await client.get(path), 404)
    refused(await client.delete(path), 404)
    long_ago = {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-01T01:00:00Z"}
    old = await client.post("/maintenance", json=wanted | long_ago)
    assert old.status_code == 201
    await client.post("/maintenance", json=wanted)
    refused(await client.get(old.headers["location"]), 404)


async def test_lag_and_listeners_are_metrics(client: Client) -> None:
    text = (await client.get("/metrics")).text
    assert 'registry_projection_lag_messages{stream="SERVICES"} 0.0' in text
    assert "registry_event_listeners 0.0" in text


async def test_of_two_apis_each_sees_what_the_other_was_told(
    client: Client,
    tmp_path: Any,
    nats_url: str,
    mongo_url: str,
    link: BrokerConnection,
) -> None:
    other = _api(tmp_path, nats_url, mongo_url).start()
    try:
        async with client_of(other) as second:
            await client.post("/service", json={"name": "web", "tags": ["x"]})
            assert (await second.get("/service/web")).status_code == 200

            async def listed() -> bool:
                return (await second.get("/services?tag=x")).json()["total"] == 1

            await eventually(listed, within=8)
            window = {"services": ["web"], "cron": "0 3 * * *", "duration": "1h"}
            path = (await client.post("/maintenance", json=window)).headers["location"]

            async def known() -> bool:
                return (await second.get(path)).status_code == 200

            await eventually(known, within=8)
    finally:
        other.kill()
