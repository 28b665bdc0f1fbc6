"""The API with a real broker and a real database: what clients see, and that the read models are a fold."""

import asyncio
import base64
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.api.commands import Commands
from services.api.projections.documents import Heard, add_heartbeat, project
from services.api.projections.store import Store
from services.api.queries.event_hub import EventHub
from shared.contracts import events, ping_keys
from shared.contracts.events import (
    ConfigData,
    Doubt,
    ServiceConfig,
    ServiceRegistered,
    ServiceUpdated,
    Signal,
    Status,
    StatusData,
    status_changed,
)
from shared.contracts.heartbeats import excerpt
from shared.contracts.wanted import NewService, Wanted
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.reader import OVER_HTTP, Reader, Stored
from shared.settings import Settings
from tests.histories import everything as all_documents
from tests.servers import Process, Service, free_port, mongo_server, nats_server

OPEN_BY_NAME = "LOCALHOST"
GOLDEN = Path(__file__).parent.parent / "contract" / "golden"
"""Resolves to loopback, so nothing is opened here, but is not a name that the settings know as loopback."""


def _api(tmp_path: Any, nats_url: str, mongo_url: str, **variables: str) -> Process:
    port = free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    env |= {"REGISTRY_NATS_URL": nats_url, "REGISTRY_MONGODB_URL": mongo_url, "REGISTRY_API_PORT": str(port)}
    env |= {f"REGISTRY_{key}": value for key, value in variables.items()}
    return Service([sys.executable, "-m", "services.api"], port, tmp_path / "api.log", env)


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = _api(tmp_path, nats_url, mongo_url).start()
    yield process
    process.kill()


@asynccontextmanager
async def client_of(process: Process, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{process.port}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as client:
        await eventually(lambda: _ready(client))
        yield client


async def _ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        yield client


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = BrokerConnection(Settings(nats_url=(nats_url,)), "test")
    await link.connect()
    yield link
    await link.close()


@pytest.fixture
async def publisher(link: BrokerConnection) -> AsyncIterator[Publisher]:
    publisher = Publisher(link)
    await publisher.start()
    yield publisher
    await publisher.stop()


async def eventually(holds: Callable[[], Any], within: float = 20.0) -> Any:
    """What `holds` returns as soon as that is true."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            if found := await holds():
                return found
        except httpx.TransportError:
            pass
        assert asyncio.get_running_loop().time() < deadline, "did not happen in time"
        await asyncio.sleep(0.05)


def now() -> datetime:
    return datetime.now(UTC)


async def change(
    publisher: Publisher, name: str, to: Status, after: int, since: datetime | None = None, **more: Any
) -> int:
    """What the monitor does when a status changes."""
    since = since or now()
    event = status_changed(
        name,
        StatusData(from_=Status.UNKNOWN, to=to, since=since, last_heartbeat=since, reason="test", **more),
    )
    ack = await publisher.append(
        streams.status(name), event.to_bytes(), after=after, event_id=event.id, kind=event.type
    )
    return ack.seq


@asynccontextmanager
async def busy(publisher: Publisher) -> AsyncIterator[None]:
    """Beside it 50 events a second: services register, and become alive."""

    async def go_on() -> None:
        for n in itertools.count():
            await register(publisher, f"busy-{n}")
            await asyncio.sleep(0.02)
            await change(publisher, f"busy-{n}", Status.ALIVE, 0)
            await asyncio.sleep(0.02)

    going_on = asyncio.create_task(go_on())
    try:
        yield
        assert not going_on.done()
    finally:
        going_on.cancel()


async def register(
    publisher: Publisher,
    name: str,
    declared_at: datetime | None = None,
    *,
    older: bool = False,
    declared_limits: tuple[str, ...] = (),
    **config: Any,
) -> int:
    """As the monitor does; `older`: of a version that knew no ping keys."""
    event = ServiceRegistered(
        id=f"{name}-registered",
        source="/monitor",
        subject=name,
        time=now(),
        data=ConfigData(
            config=ServiceConfig(**config),
            registered_at=now(),
            registered_by="heartbeat",
            declared_at=declared_at,
            declared_limits=declared_limits,
            ping_key=None if older else ping_keys.new(),
        ),
    )
    ack = await publisher.append(
        streams.config(name), event.to_bytes(), after=0, event_id=event.id, kind=event.type
    )
    return ack.seq


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    return str(problem["detail"])


async def test_create_read_replace_change_delete(client: httpx.AsyncClient) -> None:
    before = now()
    answer = await client.post("/service", json={"name": "a.b", "tags": ["x", "y", "x"], "down_after": "2h"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/service/a.b"
    made = answer.json()
    assert answer.headers["etag"] == f'"{made["version"]}"'
    assert made == (await client.get("/service/a.b")).json()
    assert made["status"] == "unknown"
    assert made["last_heartbeat"] is None
    assert made["tags"] == ["x", "y"]
    assert made["thresholds"] == {"silent_after": "15m", "down_after": "2h", "dead_after": "7d"}
    assert made["threshold_sources"] == {
        "silent_after": "default",
        "down_after": "service",
        "dead_after": "default",
    }
    assert made["registered_by"] == "api"
    assert before <= datetime.fromisoformat(made["registered_at"]) <= now() + timedelta(seconds=1)
    assert made["registered_at"].endswith("Z")
    assert made["since"] == made["registered_at"]

    refused(await client.post("/service", json={"name": "a.b"}), 409)

    put = await client.put("/service/a.b", json={"description": "new"})
    assert put.status_code == 200
    assert put.json()["tags"] == []
    assert put.json()["thresholds"]["down_after"] == "1h"
    assert put.json()["registered_at"] == made["registered_at"]
    assert put.json()["version"] > made["version"]

    patch = await client.patch("/service/a.b", json={"tags": ["z"], "silent_after": "5m"})
    assert patch.json()["description"] == "new"
    assert patch.json()["tags"] == ["z"]
    patch = await client.patch("/service/a.b", json={"silent_after": None, "notify": False})
    assert patch.json()["threshold_sources"]["silent_after"] == "default"
    assert patch.json()["notify"] is False

    paused = await client.post("/service/a.b/pause")
    assert paused.json()["paused"] is True
    assert (await client.post("/service/a.b/pause")).json() == paused.json()
    assert (await client.put("/service/a.b", json={})).json()["paused"] is True
    assert (await client.post("/service/a.b/resume")).json()["paused"] is False

    assert (await client.delete("/service/a.b")).status_code == 204
    refused(await client.get("/service/a.b"), 404)
    refused(await client.delete("/service/a.b"), 404)
    refused(await client.get("/service/a.b/events"), 404)
    again = await client.post("/service", json={"name": "a.b"})
    assert again.status_code == 201
    assert again.json()["registered_at"] > made["registered_at"]
    history = (await client.get("/service/a.b/events")).json()["items"]
    assert [it["type"] for it in history] == ["service.registered.v1", "service.deleted.v1"]


async def test_if_match(client: httpx.AsyncClient) -> None:
    etag = (await client.post("/service", json={"name": "a"})).headers["etag"]
    first = await client.patch("/service/a", json={"description": "1"}, headers={"If-Match": etag})
    assert first.status_code == 200
    refused(await client.patch("/service/a", json={"description": "2"}, headers={"If-Match": etag}), 412)
    refused(await client.put("/service/a", json={}, headers={"If-Match": etag}), 412)
    refused(await client.delete("/service/a", headers={"If-Match": etag}), 412)
    new = first.headers["etag"]
    for form in ("*", "W/{}", '"0", {}', "{}"):
        paused = await client.post("/service/a/pause", headers={"If-Match": form.format(new)})
        assert paused.status_code == 200
        new = (await client.post("/service/a/resume")).headers["etag"]
    assert (await client.delete("/service/a", headers={"If-Match": f"W/{new}"})).status_code == 204


async def test_concurrent_writers_all_count(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/service", json={"name": "a"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    etag = (await client.get("/service/a")).headers["etag"]
    answers = await asyncio.gather(
        *(
            client.patch("/service/a", json={"description": str(i)}, headers={"If-Match": etag})
            for i in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_a_command_sees_what_the_read_model_does_not_know_yet(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    for i in range(20):
        await register(publisher, f"s{i}")
        assert (await client.patch(f"/service/s{i}", json={"description": "x"})).status_code == 200
    await register(publisher, "taken")
    refused(await client.post("/service", json={"name": "taken"}), 409)


async def test_nothing_to_do_is_decided_on_the_record(
    link: BrokerConnection, publisher: Publisher, mongo_url: str
) -> None:
    """With read models that nobody keeps up: what equals them may still be a change."""
    store = Store(mongo_url, "registry")
    await store.open()
    commands = Commands(link, publisher, store, EventHub(), now, max_services=100)
    made = await commands.create(NewService(name="a", description="one"), actor=None)
    seq = made.config_seq

    async def elsewhere(kind: Any, **config: Any) -> None:
        """Another API's change, which these read models do not know."""
        nonlocal seq
        data = ConfigData(config=ServiceConfig(**config), registered_at=now(), ping_key=ping_keys.new())
        event = kind(id=f"e{seq}", source="/api", subject="a", time=now(), data=data)
        ack = await publisher.append(
            streams.config("a"), event.to_bytes(), after=seq, event_id=event.id, kind=event.type
        )
        seq = ack.seq

    await elsewhere(ServiceUpdated, description="two")
    changed = await commands.merge("a", Wanted(description="one"), None, actor=None)
    assert (changed.description, changed.config_seq) == ("one", seq + 1)
    seq += 1
    await elsewhere(ServiceUpdated, description="one", paused=True)
    resumed = await commands.set_paused("a", False, None, actor=None)
    assert (resumed.paused, resumed.config_seq) == (False, seq + 1)
    seq += 1
    await elsewhere(ServiceUpdated, description="two")
    with pytest.raises(Problem, match="the version is"):
        await commands.merge("a", Wanted(description="one"), f'"{seq - 1}"', actor=None)
    same = await commands.merge("a", Wanted(description="two"), None, actor=None)
    assert same.config_seq == seq, "and what is no change of the record is none"
    store.close()


async def test_status_and_heartbeats_show_and_only_of_this_life(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    await register(publisher, "a")
    ack = await publisher.publish("heartbeat.a")
    assert ack.seq
    seq = await change(publisher, "a", Status.ALIVE, 0)

    async def alive() -> bool:
        answer = await client.get("/service/a")
        return answer.status_code == 200 and answer.json()["status"] == "alive"

    await eventually(alive)
    assert (await client.get("/service/a")).json()["last_heartbeat"]
    assert (await client.delete("/service/a")).status_code == 204
    made = (await client.post("/service", json={"name": "a"})).json()
    assert (made["status"], made["last_heartbeat"], made["reason"]) == ("unknown", None, None)
    # A late word about the life before does not count, one about this life does.
    seq = await change(
        publisher, "a", Status.DOWN, seq, datetime.fromisoformat(made["registered_at"]) - timedelta(seconds=5)
    )
    await asyncio.sleep(0.3)
    assert (await client.get("/service/a")).json()["status"] == "unknown"
    await change(publisher, "a", Status.SILENT, seq)
    await eventually(lambda: _has_status(client, "a", "silent"))


async def _has_status(client: httpx.AsyncClient, name: str, status: str) -> bool:
    answer = await client.get(f"/service/{name}")
    return answer.status_code == 200 and bool(answer.json()["status"] == status)


async def shows(client: httpx.AsyncClient, name: str, **wanted: Any) -> dict[str, Any]:
    """The answer for a service once it has these values."""

    async def there() -> Any:
        answer = (await client.get(f"/service/{name}")).json()
        return answer if all(answer.get(field) == value for field, value in wanted.items()) else None

    found: dict[str, Any] = await eventually(there)
    return found


async def test_the_declared_interval_gives_thresholds_and_survives_every_command(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    await register(publisher, "a", declared_at=now(), every="5m")
    await register(publisher, "nightly", declared_at=now(), every="1d")
    await register(publisher, "slow", declared_at=now(), every="30d")
    made = await shows(client, "a", every="5m")
    assert made["thresholds"] == {"silent_after": "15m", "down_after": "55m", "dead_after": "7d"}
    by_heartbeat = {"silent_after": "heartbeat", "down_after": "heartbeat", "dead_after": "default"}
    assert made["threshold_sources"] == by_heartbeat
    nightly = await shows(client, "nightly", every="1d")
    assert nightly["thresholds"] == {"silent_after": "1d1h", "down_after": "1d5h", "dead_after": "7d"}
    assert nightly["threshold_sources"] == by_heartbeat
    slow = await shows(client, "slow", every="30d")
    assert slow["thresholds"] == {"silent_after": "30d1h", "down_after": "30d5h", "dead_after": "60d10h"}
    assert slow["threshold_sources"] == dict.fromkeys(by_heartbeat, "heartbeat")

    for request in (
        client.put("/service/a", json={"description": "new"}),
        client.patch("/service/a", json={"tags": ["x"]}),
        client.post("/service/a/pause"),
        client.post("/service/a/resume"),
    ):
        answer = await request
        assert (answer.status_code, answer.json()["every"]) == (200, "5m")
        assert answer.json()["threshold_sources"] == by_heartbeat
    events = (await client.get("/service/a/events")).json()["items"]
    assert len(events) == 5
    assert {event["data"]["config"]["every"] for event in events} == {"5m"}
    assert len({event["data"]["declared_at"] for event in events}) == 1

    own = (await client.patch("/service/a", json={"down_after": "2h"})).json()
    assert own["every"] == "5m"
    assert own["thresholds"] == {"silent_after": "15m", "down_after": "2h", "dead_after": "7d"}
    assert own["threshold_sources"] == by_heartbeat | {"down_after": "service"}
    why = refused(await client.patch("/service/a", json={"dead_after": "30m"}), 422)
    assert "this would be down_after 2h, dead_after 30m" in why


async def test_a_threshold_that_heartbeats_declare_is_theirs_until_a_person_sets_it(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    limits = {"declared_limits": ("down_after", "max_run"), "down_after": "20m", "max_run": "2h"}
    await register(publisher, "a", declared_at=now(), schedule="0 3 * * *", **limits)
    made = await shows(client, "a", max_run="2h")
    assert made["thresholds"]["down_after"] == "20m"
    sources = {"silent_after": "schedule", "down_after": "heartbeat", "dead_after": "default"}
    assert made["threshold_sources"] == sources
    page = await client.get("/ui/service/a")
    assert '20m <span class="note">as its heartbeats say, after it is due' in page.text
    own = (await client.patch("/service/a", json={"down_after": "30m"})).json()
    assert own["threshold_sources"] == sources | {"down_after": "service"}
    cleared = (await client.patch("/service/a", json={"down_after": None})).json()
    assert cleared["threshold_sources"] == sources | {"down_after": "schedule"}


async def test_only_thresholds_that_are_set_together_must_be_in_order(client: httpx.AsyncClient) -> None:
    """What comes from elsewhere makes way, so that nobody has to set all three."""
    body = {"name": "a", "silent_after": "8d", "down_after": "9d"}
    made = (await client.post("/service", json=body)).json()
    assert made["thresholds"] == {"silent_after": "8d", "down_after": "9d", "dead_after": "18d"}
    assert made["threshold_sources"]["dead_after"] == "derived"
    body = {"silent_after": "40m", "down_after": None}
    answer = await client.patch("/service/a", json=body)
    assert answer.json()["thresholds"] == {"silent_after": "40m", "down_after": "1h20m", "dead_after": "7d"}
    answer = await client.put("/service/a", json={"down_after": "10m"})
    assert answer.json()["thresholds"] == {"silent_after": "5m", "down_after": "10m", "dead_after": "7d"}
    refused(await client.patch("/service/a", json={"silent_after": "10m"}), 422)
    refused(await client.put("/service/a", json={"silent_after": "2h", "dead_after": "1h"}), 422)


async def test_messages_and_runs_show_and_only_of_this_life(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    nothing = {"message": None, "running_since": None, "last_duration": None}
    await register(publisher, "a")
    await publisher.publish("heartbeat.a", b'{"message": "$seq"}')
    assert nothing | await shows(client, "a", message="$seq") == await shows(client, "a")
    await publisher.publish("heartbeat.a", b"", {"Registry-Signal": "start"})
    began = (await shows(client, "a", message=None))["running_since"]
    assert began
    await asyncio.sleep(0.2)
    await publisher.publish("heartbeat.a", json.dumps({"message": "x" * 3000}).encode())
    ended = await shows(client, "a", message=excerpt("x" * 3000), running_since=None)
    took = datetime.fromisoformat(ended["last_heartbeat"]) - datetime.fromisoformat(began)
    assert ended["last_duration"] == took.total_seconds() >= 0.2
    # A start and its failure in one batch; then a start that another one supersedes.
    await publisher.publish("heartbeat.a", b"", {"Registry-Signal": "start"})
    await publisher.publish("heartbeat.a", b'{"message": "no"}', {"Registry-Signal": "fail"})
    failed = await shows(client, "a", message="no", running_since=None)
    assert 0 < failed["last_duration"] < 0.2
    for said in (b"", b'{"message": "again"}'):
        await publisher.publish("heartbeat.a", said, {"Registry-Signal": "start"})
    again = await shows(client, "a", message="again", last_duration=failed["last_duration"])
    assert again["running_since"] == again["last_heartbeat"]
    await client.delete("/service/a")
    await client.post("/service", json={"name": "a"})
    assert (await client.get("/service/a")).json().items() >= nothing.items()
    await publisher.publish("heartbeat.a", b'{"message": "new"}')
    assert (await shows(client, "a", message="new")).items() >= (nothing | {"message": "new"}).items()


async def test_history_tells_what_was_said_and_nothing_that_was_not(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    await client.post("/service", json={"name": "a"})
    seq = await change(publisher, "a", Status.ALIVE, 0)
    doubt = Doubt(stopped=312, of=340, within=5)
    seq = await change(publisher, "a", Status.DOWN, seq, message="disk full", duration=192.5, doubt=doubt)
    await shows(client, "a", status="down")
    down, alive, registered = (await client.get("/service/a/events")).json()["items"]
    said = {key: down["data"][key] for key in ("message", "duration", "doubt")}
    assert said == {"message": "disk full", "duration": 192.5, "doubt": doubt.model_dump()}
    assert set(alive["data"]) == {"from", "to", "since", "last_heartbeat", "reason"}
    assert set(registered["data"]) == {"config", "registered_at", "registered_by"}
    assert "every" not in registered["data"]["config"]


async def test_what_cannot_be_read_is_passed_over(client: httpx.AsyncClient, publisher: Publisher) -> None:
    await register(publisher, "a")
    await publisher.publish("heartbeat.a", b'{"message": "good"}')
    good = await shows(client, "a", message="good")
    event = json.loads(
        ServiceUpdated(id="1", source="/api", subject="a", time=now(), data=ConfigData()).to_bytes()
    )
    wrong = event | {"data": {"config": {"description": 1}}}
    for poison in (event | {"type": "service.updated.v2"}, wrong, {}):
        await publisher.publish("service.config.a", json.dumps(poison).encode())
    for poison in (event | {"type": "service.status_changed.v9"}, event):
        await publisher.publish("service.status.a", json.dumps(poison).encode())
    data = {
        "from": "alive",
        "to": "down",
        "since": "2026-11-24T00:00:00Z",
        "last_heartbeat": None,
        "reason": "",
    }
    for odd in ({"doubt": {"stopped": 10**30, "of": 1, "within": 1}}, {"duration": float("nan")}):
        poison = event | {"type": "service.status_changed.v1", "data": data | odd}
        await publisher.publish("service.status.a", json.dumps(poison).encode())
    done = (GOLDEN / "incident-acknowledged.json").read_bytes().replace(b'"my-service"', b'"a"')
    await publisher.publish("service.incident.a", done)
    await publisher.publish("heartbeat.é")
    await register(publisher, "later")
    await publisher.publish("heartbeat.later", b'{"message": "there"}')
    await shows(client, "later", message="there")
    assert (await client.get("/service/a")).json() == good
    metrics = (await client.get("/metrics")).text
    assert 'registry_projection_skipped_total{stream="SERVICES"} 7.0' in metrics
    assert 'registry_projection_skipped_total{stream="HEARTBEATS"} 1.0' in metrics
    # What stands there unread is in no command's way.
    assert (await client.patch("/service/a", json={"description": "on"})).json()["description"] == "on"


async def fleet(publisher: Publisher, count: int) -> None:
    statuses = (None, Status.ALIVE, Status.SILENT, Status.DOWN, Status.DEAD)
    for i in range(count):
        await register(publisher, f"s{i:03}", tags=("even",) if i % 2 == 0 else ("odd", "rare"))
        if status := statuses[i % 5]:
            await change(publisher, f"s{i:03}", status, 0)


async def _total(client: httpx.AsyncClient, total: int) -> bool:
    summary = (await client.get("/summary")).json()
    return bool(summary["total"] == total and summary["counts"]["alive"] == total // 5)


async def pages(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = (await client.get("/services", params=query | more)).json()
        items += page["items"]
        cursor = page["next"]
        if not cursor:
            assert page["total"] >= len(items)
            return items


async def test_lists(client: httpx.AsyncClient, publisher: Publisher) -> None:
    await fleet(publisher, 20)
    await client.post("/service", json={"name": "Zeta", "description": "Sends (all) the invoices"})
    await eventually(lambda: _has_status(client, "s019", "dead"))
    for sort in ("name", "status", "since", "last_heartbeat"):
        upwards = [it["name"] for it in await pages(client, sort=sort, limit=4)]
        downwards = [it["name"] for it in await pages(client, sort=f"-{sort}", limit=3)]
        assert len(upwards) == 21
        assert len(set(upwards)) == 21
        assert upwards == downwards[::-1]
    by_status = [it["status"] for it in await pages(client, sort="status", limit=7)]
    order = ["down", "silent", "dead", "unknown", "alive"]
    assert by_status == sorted(by_status, key=order.index)

    async def names(query: str) -> list[str]:
        return [it["name"] for it in (await client.get(f"/services?{query}")).json()["items"]]

    assert len(await names("status=down,silent")) == 8
    assert len(await names("status=down&status=silent")) == 8
    assert len(await names("tag=odd,rare&status=alive")) == 2
    assert await names("q=zeTA") == ["Zeta"]
    assert await names("q=(ALL)%20the") == ["Zeta"]
    assert await names("q=.*") == []
    for query in (
        "limit=0",
        "limit=501",
        "limit=x",
        "sort=tag",
        "status=well",
        "cursor=AAAA",
        "q=%00",
        "cursor=WyJuYW1lIl0",
        "cursor=%C3%A9",
        "limit=99999999999999999999999",
        "cursor=" + "A" * 5000,
    ):
        refused(await client.get(f"/services?{query}"), 422)
    wrong_sort = (await client.get("/services?limit=2&sort=status")).json()["next"]
    refused(await client.get(f"/services?cursor={wrong_sort}"), 422)


async def test_a_tag_has_no_comma_and_one_of_old_still_works(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    for tag in ("a,b", "a\nb", "\x1b[2J"):
        for request in (
            client.post("/service", json={"name": "new", "tags": [tag]}),
            client.put("/service/new", json={"tags": [tag]}),
            client.post("/maintenance", json={"tags": [tag], "cron": "0 3 * * *", "duration": "1h"}),
        ):
            assert "tags: " in refused(await request, 422)
    await register(publisher, "old", tags=["a,b", "c"])
    await register(publisher, "other", tags=["a", "b"])
    await shows(client, "old", tags=["a,b", "c"])
    await shows(client, "other", tags=["a", "b"])

    async def found(**query: str) -> list[str]:
        items = (await client.get("/services", params=query)).json()["items"]
        return [it["name"] for it in items]

    assert await found(tag="a,b") == ["old"]
    page = (await client.get("/ui/service/old", headers={"Accept": "text/html"})).text
    assert "/?tag=a%2Cb" in page
    assert "other" not in (await client.get("/?tag=a%2Cb", headers={"Accept": "text/html"})).text

    async def edit(**fields: str) -> dict[str, Any]:
        page = (await client.get("/ui/service/old", headers={"Accept": "text/html"})).text
        given = {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page)}
        answer = await client.post("/ui/service/old/edit", data=given | fields)
        assert answer.status_code == 303, answer.text
        found: dict[str, Any] = (await client.get("/service/old")).json()
        return found

    assert (await edit(description="new"))["tags"] == ["a,b", "c"], "as it was, for nobody touched it"
    assert (await edit(tags='"a,b", d'))["tags"] == ["a,b", "d"]
    assert (await client.patch("/service/old", json={"tags": ["a,b"]})).status_code == 200
    refused(await client.patch("/service/old", json={"tags": ["a,b", "c,d"]}), 422)
    assert (await edit(tags="a, b"))["tags"] == ["a", "b"]
    assert await found(tag="a,b") == ["old", "other"]


async def test_pages_hold_while_things_change(client: httpx.AsyncClient, publisher: Publisher) -> None:
    await fleet(publisher, 30)
    await eventually(lambda: _has_status(client, "s029", "dead"))
    seen, cursor = [], ""
    for step in range(100):
        page = (await client.get(f"/services?limit=3{cursor}")).json()
        seen += [it["name"] for it in page["items"]]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
        await client.post("/service", json={"name": f"a{step}"})
        await client.delete(f"/service/s{step:03}")
    assert [name for name in seen if name >= "s010"] == [f"s{i:03}" for i in range(10, 30)]
    assert len(seen) == len(set(seen))


async def test_history(client: httpx.AsyncClient) -> None:
    await client.post("/service", json={"name": "a"})
    for i in range(6):
        await client.patch("/service/a", json={"description": str(i)})
    found, cursor = [], ""
    while True:
        page = (await client.get(f"/service/a/events?limit=3{cursor}")).json()
        found += page["items"]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
    assert [it["type"] for it in found] == ["service.updated.v1"] * 6 + ["service.registered.v1"]
    assert [it["data"]["config"]["description"] for it in found[:-1]] == list("543210")
    assert found == sorted(found, key=lambda it: -it["seq"])
    refused(await client.get("/service/a/events?cursor=W10"), 422)


async def test_summary_and_page(client: httpx.AsyncClient, publisher: Publisher) -> None:
    empty = await client.get("/")
    assert "curl -fsS -X POST" in empty.text
    assert "No services yet" in empty.text
    await fleet(publisher, 20)
    await client.post("/service", json={"name": "tagged", "tags": ["<script>alert(1)</script>"]})
    await eventually(lambda: _has_status(client, "s019", "dead"))
    summary = (await client.get("/summary")).json()
    assert summary["counts"] == {"down": 4, "silent": 4, "dead": 4, "unknown": 5, "alive": 4}
    assert summary["total"] == 21
    assert [it["status"] for it in summary["worst"]] == ["down"] * 4 + ["silent"] * 4 + ["dead"] * 2
    assert summary["next_digest"]["at"]
    assert "4 down" in summary["next_digest"]["text"]
    page = await client.get("/")
    assert "4 down, 4 silent, 5 unknown, 4 alive, 4 dead" in page.text
    assert "(4 down)" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>alert" not in page.text
    for path in ("/static/page.css", "/static/page.js", "/docs", "/openapi.json", "/metrics", "/healthz"):
        assert (await client.get(path)).status_code == 200, path


async def test_what_is_paused_counts_as_that_alone_wherever_services_are_counted(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    await fleet(publisher, 10)
    await eventually(lambda: _has_status(client, "s009", "dead"))
    for name in ("s003", "s002", "s009"):  # down, silent, dead
        await client.post(f"/service/{name}/pause")
    summary = (await client.get("/summary")).json()
    assert summary["counts"] == {"down": 1, "silent": 1, "dead": 1, "unknown": 2, "alive": 2}
    assert (summary["paused"], summary["total"]) == (3, 10)
    assert not {"s003", "s002", "s009"} & {it["name"] for it in summary["worst"]}
    said = summary["next_digest"]["text"].splitlines()[1]
    assert said == "❔ 2 unknown · ✅ 2 alive · ⏳ 1 silent · 🔻 1 down · 💀 1 dead · ⏸ 3 paused"
    page = (await client.get("/")).text
    assert "1 down, 1 silent, 2 unknown, 2 alive, 3 paused, 1 dead" in page
    assert page.index('id="g-paused"') < page.index('id="s-s003"') < page.index('id="g-dead"')
    for status, expected in (("paused", 3), ("down", 1), ("dead,paused", 4)):
        assert (await client.get(f"/services?status={status}")).json()["total"] == expected


async def test_every_operation_has_an_id_and_an_example(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    def example(kind: dict[str, Any]) -> Any:
        """Of an answer, or of the model that it is."""
        if "example" in kind:
            return kind["example"]
        return document["components"]["schemas"][kind["schema"]["$ref"].rpartition("/")[2]]["example"]

    operations = [op for path in document["paths"].values() for op in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids)) == 42
    for operation in operations:
        success = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
        kinds = success.get("content", {}).values()
        assert operation["operationId"] == "delete_service" or all(map(example, kinds)), operation
        for body in operation.get("requestBody", {}).get("content", {}).values():
            assert body["schema"]["examples"]
    assert {"create_service", "get_service", "list_services", "get_summary"} <= set(ids)


BODIES: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"a"',
    b"\xff\xfe",
    b'{"name": "a", "tags": "x"}',
    b'{"name": "a", "tags": [1]}',
    b'{"name": "a", "tags": [""]}',
    b'{"name": 1}',
    b'{"name": "a b"}',
    b'{"name": "a\\u0000"}',
    b'{"name": "' + b"a" * 129 + b'"}',
    b'{"name": "a", "description": "\\ud800"}',
    b'{"name": "a", "\\ud800": 1}',
    b'{"name": "a", "notify": "yes"}',
    b'{"name": "a", "notify": 1}',
    b'{"name": "a", "silent_after": 300}',
    b'{"name": "a", "silent_after": 1' + b"0" * 5000 + b"}",
    b'{"name": "a", "silent_after": "5"}',
    b'{"name": "a", "silent_after": "0s"}',
    b'{"name": "a", "silent_after": "2h", "down_after": "1h"}',
    b'{"name": "a", "down_after": "2h", "dead_after": "30m"}',
    b'{"name": "a", "silent_afer": "5m"}',
    b'{"name": "a", "description": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b"[" * 60_000,
    b'{"name": "a", "description": 1e999}',
]


@pytest.mark.parametrize("number", range(len(BODIES)))
async def test_bad_bodies(bad_input: httpx.AsyncClient, number: int) -> None:
    assert refused(await bad_input.post("/service", content=BODIES[number]), 422)


@pytest.fixture(scope="session")
def bad_input_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One API for all inputs that change nothing."""
    folder = tmp_path_factory.mktemp("bad-input")
    nats, mongo = nats_server(folder).start(), mongo_server(folder).start()
    process = _api(folder, f"nats://127.0.0.1:{nats.port}", f"mongodb://127.0.0.1:{mongo.port}").start()
    yield f"http://127.0.0.1:{process.port}"
    for it in (process, mongo, nats):
        it.kill()


@pytest.fixture
async def bad_input(bad_input_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=bad_input_url, timeout=10) as client:
        await eventually(lambda: _ready(client))
        yield client


async def test_bad_names_and_requests(bad_input: httpx.AsyncClient) -> None:
    for name in ("a%00", "a%20b", ".a", "a..b", "%C3%A9", "%ED%A0%80", "*", "%3E", "a%0A", "a" * 129):
        assert "letters, digits" in refused(await bad_input.get(f"/service/{name}"), 422)
        refused(await bad_input.put(f"/service/{name}", json={}), 422)
        refused(await bad_input.delete(f"/service/{name}"), 422)
        refused(await bad_input.post(f"/service/{name}/pause"), 422)
        refused(await bad_input.get(f"/service/{name}/events"), 422)
    refused(await bad_input.get("/service/nobody"), 404)
    refused(await bad_input.put("/service/nobody", json={}, headers={"If-Match": "*"}), 412)
    refused(await bad_input.patch("/service/nobody", json={"name": "other"}), 422)
    refused(await bad_input.get("/nowhere"), 404)
    refused(await bad_input.post("/services"), 405)
    large = json.dumps({"name": "a", "description": "x" * 1_048_576}).encode()
    refused(await bad_input.post("/service", content=large), 413)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 16384

    with suppress(httpx.NetworkError):  # cut off in the middle of sending, before it came to read the answer
        refused(await bad_input.post("/service", content=chunks()), 413)


async def test_head_answers_wherever_get_does(bad_input: httpx.AsyncClient) -> None:
    paths = [
        "/",
        "/ui/connect",
        "/ui/maintenance",
        "/ui/notifications",
        "/channels",
        "/ui/login",
        "/services",
        "/summary",
        "/maintenance",
        "/docs",
    ]
    paths += ["/docs", "/openapi.json", "/favicon.svg", "/healthz", "/readyz", "/metrics", "/static/page.css"]
    paths += ["/service/nobody", "/badge/nobody.svg", "/status", "/nowhere", "/services?limit=0"]
    for path in paths:
        got, head = await bad_input.get(path), await bad_input.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
    events = await bad_input.head("/events", timeout=5)
    assert events.headers["content-type"].startswith("text/event-stream")
    assert (await bad_input.head("/service")).status_code == 405


async def test_nothing_is_created_beyond_the_limit(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    api = _api(tmp_path, nats_url, mongo_url, MAX_SERVICES="3").start()
    try:
        async with client_of(api) as client:
            made = await asyncio.gather(*(client.post("/service", json={"name": f"s{n}"}) for n in range(5)))
            assert sorted(it.status_code for it in made) == [201, 201, 201, 429, 429]
            answer = await client.put("/service/new", json={})
            refused(answer, 429)
            assert int(answer.headers["retry-after"]) > 0
            name = next(it.json()["name"] for it in made if it.status_code == 201)
            assert (await client.put(f"/service/{name}", json={"tags": ["x"]})).status_code == 200
            refused(await client.post("/service", json={"name": name}), 409)
            assert (await client.delete(f"/service/{name}")).status_code == 204
            assert (await client.put("/service/new", json={})).status_code == 201
    finally:
        api.kill()


async def test_put_creates_what_is_not_there(client: httpx.AsyncClient) -> None:
    made = await client.put("/service/new", json={"tags": ["x"]})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/service/new"
    assert (await client.get("/service/new")).json() == made.json()
    again = await client.put("/service/new", json={"tags": ["y"]}, headers={"If-Match": made.headers["etag"]})
    assert (again.status_code, again.json()["tags"]) == (200, ["y"])
    assert (await client.delete("/service/new")).status_code == 204
    refused(await client.put("/service/new", json={}, headers={"If-Match": again.headers["etag"]}), 412)
    assert (await client.put("/service/new", json={})).status_code == 201
    both = await asyncio.gather(*(client.put("/service/race", json={"tags": [str(n)]}) for n in range(4)))
    assert sorted(answer.status_code for answer in both) == [200, 200, 200, 201]


async def test_tokens(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN="all", READ_TOKEN="look").start()
    try:
        async with client_of(process) as client:

            def with_token(token: str) -> dict[str, str]:
                return {"Authorization": f"Bearer {token}"}

            basic = {"Authorization": "Basic " + base64.b64encode(b"me:look").decode()}
            for headers in (
                {},
                with_token("wrong"),
                {"Authorization": "Basic !"},
                {"Authorization": "Bearer"},
            ):
                answer = await client.get("/services", headers=headers)
                refused(answer, 401)
                assert answer.headers["www-authenticate"].startswith("Bearer")
            for headers in (with_token("all"), with_token("look"), basic):
                for path in ("/services", "/summary", "/"):
                    assert (await client.get(path, headers=headers)).status_code == 200
            refused(await client.post("/service", json={"name": "a"}), 401)
            refused(await client.post("/service", json={"name": "a"}, headers=with_token("look")), 403)
            refused(await client.post("/service", json={"name": "a"}, headers=basic), 403)
            made = await client.post("/service", json={"name": "a"}, headers=with_token("all"))
            assert made.status_code == 201
            elsewhere = with_token("all") | {"Sec-Fetch-Site": "cross-site"}
            refused(await client.delete("/service/a", headers=elsewhere), 403)
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await client.get(path)).status_code == 200
    finally:
        process.kill()


async def test_reading_for_everybody_is_not_writing(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    refused_to_start = _api(tmp_path, nats_url, mongo_url, HOST=OPEN_BY_NAME).start(wait=0)
    assert refused_to_start.process
    assert refused_to_start.process.wait(10) == 2
    process = _api(tmp_path, nats_url, mongo_url, HOST=OPEN_BY_NAME, ANONYMOUS="read").start()
    try:
        async with client_of(process) as client:
            assert (await client.get("/services")).status_code == 200
            refused(await client.post("/service", json={"name": "a"}), 401)
    finally:
        process.kill()


# --- the read models are a fold of the streams


async def record(link: BrokerConnection) -> list[Stored]:
    """Everything in SERVICES."""
    found: list[Stored] = []
    reader = Reader(link, streams.SERVICES, streams.ALL_EVENTS)
    async for batch in reader.batches():
        found += batch
        if not reader.pending:
            break
    return found


async def lively(client: httpx.AsyncClient, publisher: Publisher, prefix: str = "") -> None:
    """A history with everything in it, poison included."""
    await fleet_named(publisher, prefix)
    await client.patch(f"/service/{prefix}1", json={"description": "$literal"})
    await client.delete(f"/service/{prefix}2")
    await client.post("/service", json={"name": f"{prefix}2"})
    await client.delete(f"/service/{prefix}3")
    await publisher.publish(f"service.config.{prefix}9", b"no event")
    await publisher.publish(f"heartbeat.{prefix}4", b"\xff no body")
    await publisher.publish(f"heartbeat.{prefix}5", b'{"message": "well"}')
    await publisher.publish(f"heartbeat.{prefix}6", b"", {"Registry-Signal": "start"})
    await publisher.publish(f"heartbeat.{prefix}7", b"", {"Registry-Signal": "start"})
    await asyncio.sleep(
        1.5
    )  # the projector writes what it has, and hears the end of the run in another batch
    await publisher.publish(f"heartbeat.{prefix}7", b'{"message": "no"}', {"Registry-Signal": "fail"})


async def fleet_named(publisher: Publisher, prefix: str) -> None:
    for i in range(8):
        await register(publisher, f"{prefix}{i}", tags=("t",))
        await publisher.publish(f"heartbeat.{prefix}{i}")
        await change(publisher, f"{prefix}{i}", Status.ALIVE, 0)


async def contents(mongo_url: str) -> tuple[Any, Any]:
    store = Store(mongo_url, "registry")
    try:
        return await all_documents(await store.open())
    finally:
        store.close()


async def settled(client: httpx.AsyncClient, mongo_url: str, link: BrokerConnection) -> tuple[Any, Any]:
    """The documents once the projector has read everything there is."""
    ends = [(await link.js.stream_info(stream)).state.last_seq for stream in ("SERVICES", "HEARTBEATS")]

    async def caught_up() -> bool:
        store = Store(mongo_url, "registry")
        try:
            view = await store.open()
            return [await view.checkpoint(stream) for stream in ("SERVICES", "HEARTBEATS")] == ends
        finally:
            store.close()

    await eventually(caught_up)
    return await contents(mongo_url)


async def test_rebuilt_read_models_equal_the_live_ones(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, mongo_url: str
) -> None:
    await lively(client, publisher)
    live = await settled(client, mongo_url, link)
    assert len(live[0]) >= 8
    answer = json.loads((await link.nc.request("registry.rebuild", timeout=30)).data)
    assert answer == {"events": len(live[1]), "services": 7, "runs": 0}
    assert await contents(mongo_url) == live
    # The new generation goes on being followed.
    await register(publisher, "later")
    await eventually(lambda: _has_status(client, "later", "unknown"))
    assert (await client.delete("/service/later")).status_code == 204


async def test_a_rebuild_keeps_the_last_run_beyond_the_kept_heartbeats(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, mongo_url: str
) -> None:
    for name in ("a", "again", "quiet"):
        await register(publisher, name)
    for name in ("a", "again"):
        await publisher.publish(f"heartbeat.{name}", b"", {"Registry-Signal": "start"})
        await publisher.publish(f"heartbeat.{name}")
    await shows(client, "again", running_since=None)
    await client.delete("/service/again")
    await client.post("/service", json={"name": "again"})
    for _ in range(110):  # more than are kept
        await asyncio.gather(*(publisher.publish(f"heartbeat.{name}") for name in ("a", "again", "quiet")))
    live = await settled(client, mongo_url, link)
    shown = [(await client.get(f"/service/{name}")).json() for name in ("a", "again", "quiet")]
    assert [it["last_duration"] is not None for it in shown] == [True, False, False]
    await link.nc.request("registry.rebuild", timeout=30)
    assert await contents(mongo_url) == live
    assert [(await client.get(f"/service/{it['name']}")).json() for it in shown] == shown


async def test_warnings_and_the_end_of_a_message_are_shown(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection
) -> None:
    """Of the newest heartbeat, until one comes without; a log is none. The same after a rebuild."""
    await register(publisher, "a")
    long = b"begin " + b"x" * 9000 + b" the reason"
    await publisher.publish("heartbeat.a", json.dumps({"message": long.decode(), "every": "soon"}).encode())
    await publisher.publish("heartbeat.a", b"by the way", {"registry-signal": "LOG"})
    for rebuilt in (False, True):
        if rebuilt:
            await link.nc.request("registry.rebuild", timeout=30)
        await shows(client, "a", warnings=["every: 'soon' is not a duration such as 30s, 15m, 1h"])
        shown = (await client.get("/service/a")).json()
        assert shown["message"].startswith("begin xx")
        assert shown["message"].endswith("xx the reason")
        assert "soon" in (await client.get("/ui/service/a")).text
        log, beat = (await client.get("/service/a/heartbeats")).json()["items"]
        assert (log["signal"], log["message"], log["warnings"]) == ("log", "by the way", [])
        assert (beat["message"], beat["warnings"]) == (long.decode(), shown["warnings"])
    await publisher.publish("heartbeat.a")
    await shows(client, "a", warnings=[])


async def test_heartbeats_are_those_of_this_life(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection
) -> None:
    """In the list and on the page, at once and after a rebuild; a run of another life has no end here."""
    await register(publisher, "a")
    await publisher.publish("heartbeat.a", b'{"message": "of old"}', {"Registry-Signal": "fail"})
    await publisher.publish("heartbeat.a", b'{"message": "of old"}', {"Registry-Signal": "start"})
    await shows(client, "a", message="of old")
    then = now()
    await client.delete("/service/a")
    await client.post("/service", json={"name": "a"})

    async def everything() -> tuple[list[Any], str]:
        items = (await client.get("/service/a/heartbeats")).json()["items"]
        return items, (await client.get("/ui/service/a")).text

    for rebuilt in (False, True):
        if rebuilt:
            await link.nc.request("registry.rebuild", timeout=30)
        items, page = await everything()
        assert items == []
        assert "of old" not in page
    await publisher.publish("heartbeat.a", b'{"message": "of now"}')
    items, page = await everything()
    assert [(it["message"], it["duration"]) for it in items] == [("of now", None)]
    assert "of now" in page
    assert "of old" not in page
    before = (await client.get("/service/a", params={"at": then.isoformat()})).json()
    assert before["message"] == "of old"


async def test_writes_during_a_rebuild_are_read_after_it(
    client: httpx.AsyncClient, link: BrokerConnection, publisher: Publisher
) -> None:
    await lively(client, publisher)
    rebuilding = asyncio.create_task(link.nc.request("registry.rebuild", timeout=30))
    count = 0
    while not rebuilding.done():
        assert (await client.post("/service", json={"name": f"w{count}"})).status_code == 201
        assert (await client.get(f"/service/w{count}")).status_code == 200
        count += 1
    assert count
    for i in range(count):
        assert (await client.get(f"/service/w{i}")).status_code == 200


async def test_everything_twice_and_shuffled_gives_the_same_documents(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, mongo_url: str
) -> None:
    await lively(client, publisher)
    live = await settled(client, mongo_url, link)
    changes = []
    for message in await record(link):
        try:
            changes.append(project(message))
        except ValueError:
            continue
    store = Store(mongo_url, "registry")
    view = await store.open()
    await view.apply(changes)
    for one in [*changes, *reversed(changes)]:
        await view.apply([one])
    assert (await all_documents(view))[0] == live[0]
    for one in changes:  # a deletion takes back again what came after it of the life before
        await view.apply([one])
    assert await all_documents(view) == live
    store.close()


async def test_runs_are_the_same_however_heartbeats_are_cut_into_batches(mongo_url: str) -> None:
    """Also when some are read again, as after a crash between the documents and the checkpoint."""
    rng = random.Random(7)
    store = Store(mongo_url, "registry")
    view = await store.open()
    wanted: dict[str, tuple[int, list[int] | None, list[list[Any]]]] = {}
    for name in (f"s{i}" for i in range(120)):
        beats, begun, last = list[Stored](), dict[str, int](), None
        ids = rng.choice((("",), ("$a", "$b"), ("", "a", "b", "c")))
        for seq in range(1, rng.randint(2, 16)):
            signal, run = rng.choice((Signal.SUCCESS, Signal.START, Signal.FAIL)), rng.choice(ids)
            body = json.dumps({"run": run}).encode() if run else b""
            at, measured = seq * 10**6, rng.choice((0, 0, 1, 3)) * 10**6
            headers = {**OVER_HTTP, "Registry-Signal": signal} | (
                {events.DURATION_HEADER: f"{measured / 10**6}"} if measured else {}
            )
            beats.append(Stored(f"heartbeat.{name}", body, headers, seq, at, 0))
            start = begun.pop(run, None)
            if signal is Signal.START:
                begun[run] = at
            elif start:
                last = [max(start, at - measured) if measured else start, at]
            elif measured:
                last = [at - measured, at]
        wanted[name] = len(beats), last, [[run, start] for run, start in begun.items()]
        done = 0
        while done < len(beats):
            start, done = rng.randint(0, done), rng.randint(done + 1, len(beats))
            heard: Heard | None = None
            for beat in beats[start:done]:
                heard = add_heartbeat(heard, beat)
            assert heard
            for _ in range(rng.randint(1, 2)):
                await view.apply_heartbeats({name: heard})
    found, _ = await all_documents(view)
    assert wanted == {
        it["_id"]: tuple(it["heartbeat"][field] for field in ("seq", "last_run", "open")) for it in found
    }
    store.close()


async def test_the_database_may_die_while_events_flow(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, mongo: Process, mongo_url: str
) -> None:
    await lively(client, publisher, "a")
    mongo.kill()
    await fleet_named(publisher, "b")
    answer = await client.get("/services")
    refused(answer, 503)
    assert answer.headers["retry-after"]
    refused(await client.post("/service", json={"name": "x"}), 503)
    assert (await client.get("/healthz")).status_code == 200
    mongo.start()
    await fleet_named(publisher, "c")
    await eventually(lambda: _ready(client))
    await shows(client, "c7", status="alive")
    await publisher.publish("heartbeat.a0")  # what names sent before they were known moves no checkpoint
    live = await settled(client, mongo_url, link)
    assert {f"{p}{i}" for p in "abc" for i in range(8)} <= {it["_id"] for it in live[0]}
    json.loads((await link.nc.request("registry.rebuild", timeout=30)).data)
    assert await contents(mongo_url) == live


async def test_a_database_that_forgot_what_it_acknowledged_is_caught_up(
    client: httpx.AsyncClient,
    publisher: Publisher,
    link: BrokerConnection,
    mongo: Process,
    mongo_url: str,
    tmp_path: Any,
) -> None:
    await lively(client, publisher)
    live = await settled(client, mongo_url, link)
    mongo.kill()
    shutil.rmtree(tmp_path / "mongo")
    mongo.start()
    await eventually(lambda: _has_status(client, "0", "alive"))
    assert await settled(client, mongo_url, link) == live


async def test_the_broker_may_be_away(client: httpx.AsyncClient, nats: Process, api: Process) -> None:
    await client.post("/service", json={"name": "a"})
    nats.kill()
    assert (await client.get("/service/a")).status_code == 200
    answer = await client.patch("/service/a", json={"description": "x"})
    refused(answer, 503)
    assert answer.headers["retry-after"]
    nats.start()
    await eventually(lambda: _ready(client))

    async def works() -> bool:
        return (await client.patch("/service/a", json={"description": "y"})).status_code == 200

    await eventually(works)
    assert api.kill(signal.SIGTERM) == 0


async def test_starts_before_broker_and_database(tmp_path: Any, nats: Process, mongo: Process) -> None:
    nats.kill()
    mongo.kill()
    process = _api(tmp_path, f"nats://127.0.0.1:{nats.port}", f"mongodb://127.0.0.1:{mongo.port}").start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
            answer = await client.get("/services")
            refused(answer, 503)
            assert answer.headers["retry-after"]
            mongo.start()
            nats.start()
            await eventually(lambda: _ready(client))
            assert (await client.get("/services")).json() == {"items": [], "next": None, "total": 0}
    finally:
        process.kill()


async def test_an_emptied_broker_is_another_record(
    client: httpx.AsyncClient, publisher: Publisher, nats: Process, api: Process, tmp_path: Any
) -> None:
    await fleet_named(publisher, "")
    await eventually(lambda: _has_status(client, "7", "alive"))
    api.kill()
    nats.kill()
    shutil.rmtree(tmp_path / "nats")
    nats.start()
    api.start()
    await eventually(lambda: _ready(client))
    assert (await client.get("/services")).json()["items"] == []
    assert (await client.post("/service", json={"name": "7"})).status_code == 201


def test_wrong_settings_end_with_code_2(tmp_path: Any) -> None:
    for wrong in ({"MONGODB_URL": "nonsense"}, {"API_PORT": "x"}, {"DIGEST_TIME": "25:00"}):
        process = _api(tmp_path, "nats://127.0.0.1:1", "mongodb://127.0.0.1:1", **wrong).start(wait=0)
        assert process.process
        assert process.process.wait(15) == 2
