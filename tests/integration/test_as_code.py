"""Configuration as code over HTTP: plans, applies, exports; who may; what is refused, all at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from nats.aio.msg import Msg

from shared.contracts import configuration
from shared.contracts.channels import ChannelReport, ReportPage
from shared.contracts.configuration_file import write
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from tests.integration.test_actors import ANA, CI, TOKENS, audit
from tests.integration.test_api import _api, client_of, eventually, link, refused
from tests.integration.test_routes import READER, notifier
from tests.servers import Process

__all__ = ["link", "notifier"]

FILE: dict[str, Any] = {
    "version": 1,
    "defaults": {"silent_after": "20m"},
    "templates": {"nightly": {"schedule": "0 3 * * *", "time_zone": "Europe/Berlin", "max_run": "2h"}},
    "services": {
        "backup.db": {
            "template": "nightly",
            "tags": ["db"],
            "description": "Dump of all databases",
            "depends_on": ["storage"],
            "aliases": ["6d8d1a8e-1f2b-4c55-9d0e-0f6c0d1d7a52"],
        },
        "storage": {"every": "1m"},
        "plain": None,
    },
    "routes": [
        {
            "match": {"tags": ["db"]},
            "to": ["ops"],
            "quiet": "22:00-07:00 Europe/Berlin",
            "escalate": {"after": "15m", "to": ["ana"]},
        }
    ],
    "maintenance": [{"tags": ["db"], "cron": "0 3 * * sun", "duration": "2h", "time_zone": "Europe/Berlin"}],
    "status_pages": [{"path": "public", "title": "Shop", "groups": [{"name": "Databases", "tags": ["db"]}]}],
}


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    more = {"API_TOKEN": TOKENS, "READ_TOKEN": READER, "MAX_SERVICES": "20000"}
    process = _api(tmp_path, nats_url, mongo_url, **more).start()
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api, Authorization=ANA) as client:
        client.timeout = httpx.Timeout(120)
        yield client


async def post(
    client: httpx.AsyncClient, what: dict[str, Any], *, dry: bool = False, **more: Any
) -> dict[str, Any]:
    headers = more.pop("headers", {})
    body = {"configuration": what, **more}
    answer = await client.post("/configuration", json=body, params={"dry": dry}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{answer.json()["etag"]}"'
    found: dict[str, Any] = answer.json()
    return found


def changed(answer: dict[str, Any]) -> dict[str, str]:
    return {it["name"]: it["action"] for it in answer["changes"] if it["action"] != "nothing"}


async def export(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    answer = await client.get("/configuration", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_plan_changes_nothing_and_an_apply_makes_it_so(
    client: httpx.AsyncClient, notifier: None
) -> None:
    planned = await post(client, FILE, dry=True)
    assert set(changed(planned).values()) == {"create"}
    assert len(planned["changes"]) == 6
    assert planned["applied"] == 0
    assert (await client.get("/services")).json()["total"] == 0
    applied = await post(client, FILE, headers={"If-Match": f'"{planned["etag"]}"'})
    assert (applied["applied"], applied["failed"], changed(applied)) == (6, [], changed(planned))

    backup = (await client.get("/service/backup.db")).json()
    assert backup["schedule"] == "0 3 * * *"
    assert backup["managed_by"] == "file:registry.yaml"
    assert backup["template"] == "nightly"
    assert backup["thresholds"] == {"silent_after": "15m", "down_after": "1h", "dead_after": "7d"}
    assert backup["threshold_sources"]["silent_after"] == "schedule"
    plain = (await client.get("/service/plain")).json()
    assert plain["thresholds"]["silent_after"] == "20m"
    assert plain["threshold_sources"]["silent_after"] == "defaults"
    assert (await client.get("/routes")).json()["routes"] == FILE["routes"]
    (window,) = (await client.get("/maintenance")).json()["items"]
    assert window["window"]["cron"] == "0 3 * * sun"
    assert {row["actor"] for row in await audit(client)} == {"file:registry.yaml"}

    for dry in (True, False):
        again = await post(client, FILE, dry=dry)
        assert (changed(again), again["applied"]) == ({}, 0)
    for file in ("registry.yaml", "other.yaml"):
        assert changed(await post(client, await export(client), dry=True, file=file)) == {}
    exported = await export(client)
    assert exported["services"]["backup.db"]["template"] == "nightly"
    assert exported["templates"] == FILE["templates"]
    assert exported["defaults"] == FILE["defaults"]
    assert exported["maintenance"] == FILE["maintenance"]
    assert exported["status_pages"] == FILE["status_pages"]
    refused(
        await client.post(
            "/configuration", json={"configuration": FILE}, headers={"If-Match": f'"{planned["etag"]}"'}
        ),
        412,
    )


async def test_what_a_person_changes_is_shown_as_drift_and_made_good(client: httpx.AsyncClient) -> None:
    what = {"version": 1, "services": {"a": {"every": "5m", "tags": ["x"]}, "b": {}}}
    await post(client, what)
    await client.patch("/service/a", json={"every": "7m", "description": "by hand"})
    await client.post("/service/b/pause")
    await client.put("/service/c", json={})
    assert (await client.get("/service/a")).json()["managed_by"] == "file:registry.yaml"
    planned = await post(client, what, dry=True)
    (drift,) = [it for it in planned["changes"] if it["action"] != "nothing"]
    assert drift == {
        "kind": "service",
        "name": "a",
        "action": "update",
        "fields": {"every": ["7m", "5m"], "description": ["by hand", ""]},
    }
    await post(client, what)
    assert changed(await post(client, what, dry=True)) == {}
    assert (await client.get("/service/b")).json()["paused"], "the file does not say"
    await post(client, what | {"services": what["services"] | {"b": {"paused": False}, "c": {}}})  # type: ignore[dict-item]
    assert not (await client.get("/service/b")).json()["paused"]
    assert (await client.get("/service/c")).json()["managed_by"] == "file:registry.yaml"


async def test_pruning_deletes_what_the_file_once_made_and_nothing_else(
    client: httpx.AsyncClient, notifier: None
) -> None:
    await client.put("/service/by.hand", json={})
    await post(client, {"version": 1, "services": {"other": {}}}, file="other.yaml")
    await post(client, FILE)
    less = {"version": 1, "defaults": FILE["defaults"], "services": {"storage": {"every": "1m"}}}
    planned = await post(client, less, dry=True)
    assert changed(planned) == {}
    assert {(it["kind"], it["name"]) for it in planned["left"] if it["kind"] != "maintenance"} == {
        ("service", "backup.db"),
        ("service", "plain"),
        ("routes", "all"),
        ("status_page", "public"),
    }
    pruned = await post(client, less, prune=True)
    assert (len(changed(pruned)), pruned["left"], pruned["failed"]) == (5, [], [])
    names = [it["name"] for it in (await client.get("/services")).json()["items"]]
    assert names == ["by.hand", "other", "storage"]
    assert (await client.get("/routes")).json()["routes"] == []
    assert (await client.get("/maintenance")).json()["items"] == []
    assert (await post(client, less, prune=True))["applied"] == 0
    await post(client, FILE)
    assert changed(await post(client, FILE, dry=True)) == {}, "what was deleted can be made again"


async def test_all_that_is_wrong_is_told_at_once_and_nothing_is_changed(
    client: httpx.AsyncClient, notifier: None
) -> None:
    await client.put("/service/there", json={"aliases": ["taken"], "depends_on": ["a"]})
    what = {
        "version": 1,
        "templates": {"t": {"silent_after": "1h", "down_after": "30m"}},
        "services": {
            "good": {},
            "a": {"depends_on": ["b"]},
            "b": {"depends_on": ["there"]},
            "c": {"template": "tt"},
            "d": {"schedule": "61 * * * *"},
            "e": {"every": "5m", "schedule": "0 3 * * *"},
            "f": {"every": "whenever", "evry": 5},
            "g": {"aliases": ["taken"]},
            "h": {"aliases": ["twice"]},
            "i": {"aliases": ["twice"], "tags": ["a,b"]},
        },
        "routes": [{"to": ["ops", "nobody"]}],
        "maintenance": [{"tags": ["x"], "cron": "0 0 30 2 *", "duration": "1h"}],
        "status_pages": [{"path": "a", "title": "A"}, {"path": "a", "title": "A"}],
    }
    for dry in (True, False):
        answer = await client.post("/configuration", json={"configuration": what}, params={"dry": dry})
        refused(answer, 422)
        told = {it["at"]: it["why"] for it in answer.json()["errors"]}
        assert told.keys() == {
            "templates.t.silent_after",
            "services.a.depends_on",
            "services.c.template",
            "services.d.schedule",
            "services.e.schedule",
            "services.f.every",
            "services.f.evry",
            "services.g.aliases[0]",
            "services.i.aliases[0]",
            "services.i.tags",
            "routes[0].to[1]",
            "maintenance[0].cron",
            "status_pages[1].path",
        }
        assert told["services.a.depends_on"] == "it would depend on itself: a → b → there → a"
        assert told["services.c.template"] == "there is no such template; do you mean t?"
        assert told["routes[0].to[1]"] == "no channel is called nobody"
    assert (await client.get("/services")).json()["total"] == 1


async def test_who_may(client: httpx.AsyncClient, api: Process) -> None:
    await client.put("/service/a", json={"aliases": ["secret-alias"]})
    what = {"version": 1, "services": {"a": {"aliases": ["another"]}, "b": {"aliases": ["secret-alias"]}}}
    for token, plan, apply in (("", 401, 401), (f"Bearer {READER}", 200, 403), (ANA, 200, 200)):
        headers = {"Authorization": token}
        for dry, status in (("true", plan), ("1", plan), ("false", apply), ("", apply), ("no", apply)):
            query = {"dry": dry} if dry else {}
            answer = await client.post(
                "/configuration", json={"configuration": what}, params=query, headers=headers
            )
            assert answer.status_code == status, (token, dry, answer.text)
            if status == 200 and token.endswith(READER):
                assert changed(answer.json()) == {"b": "create"}
                assert "alias" not in str([it for it in answer.json()["changes"]])
        assert (await client.get("/configuration", headers=headers)).status_code == plan
    unread = await client.post("/configuration", content=b"{", headers={"Authorization": f"Bearer {READER}"})
    assert unread.status_code == 403, "whoever may not write does not make us read a body"
    assert (await client.get("/configuration", headers={"Authorization": f"Bearer {READER}"})).headers[
        "registry-aliases"
    ] == "left-out"
    assert "another" not in str(await export(client, Authorization=f"Bearer {READER}"))
    assert "another" in str(await export(client))
    schema = await client.get("/registry.schema.json", headers={"Authorization": ""})
    assert (schema.status_code, schema.json()) == (200, configuration.schema())


async def test_what_heartbeats_declare_stays_unless_the_file_says_otherwise(
    client: httpx.AsyncClient, link: BrokerConnection
) -> None:
    from tests.integration.test_api import Publisher, now, register

    publisher = Publisher(link)
    await publisher.start()
    await register(publisher, "declared", every="5m", declared_at=now())
    await eventually(lambda: _exists(client, "declared"))
    what: dict[str, Any] = {"version": 1, "services": {"declared": {"tags": ["x"]}}}
    assert changed(await post(client, what)) == {"declared": "update"}
    assert (await client.get("/service/declared")).json()["every"] == "5m"
    assert changed(await post(client, what, dry=True)) == {}
    assert "every" not in (await export(client))["services"]["declared"]
    what["services"]["declared"]["every"] = "10m"
    await post(client, what)
    assert (await client.get("/service/declared")).json()["every"] == "10m"
    assert changed(await post(client, what, dry=True)) == {}


async def _exists(client: httpx.AsyncClient, name: str) -> bool:
    return (await client.get(f"/service/{name}")).status_code == 200


async def test_a_window_that_is_changed_in_the_file_keeps_its_id(client: httpx.AsyncClient) -> None:
    window = {"title": "Sundays", "tags": ["db"], "cron": "0 3 * * sun", "duration": "2h"}
    other = {"title": "Mondays", "tags": ["web"], "cron": "0 3 * * mon", "duration": "1h"}
    await post(client, {"version": 1, "maintenance": [window, other]})
    before = {it["window"]["title"]: it["id"] for it in (await client.get("/maintenance")).json()["items"]}
    changes = await post(client, {"version": 1, "maintenance": [window | {"duration": "3h"}, other]})
    assert changed(changes) == {before["Sundays"]: "update"}
    shown = (await client.get("/maintenance")).json()["items"]
    assert {it["window"]["title"]: it["id"] for it in shown} == before
    assert {it["window"]["duration"] for it in shown} == {"3h", "1h"}


async def test_two_apply_at_once(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, mongo_url: str, notifier: None
) -> None:
    (tmp_path / "other").mkdir()
    process = _api(tmp_path / "other", nats_url, mongo_url, API_TOKEN=TOKENS).start()
    async with client_of(process, Authorization=CI) as other:
        other.timeout = httpx.Timeout(60)
        answers = await asyncio.gather(post(client, FILE), post(other, FILE))
        assert sum(it["applied"] for it in answers) == 6, answers
        assert [it["failed"] for it in answers] == [[], []]
        for who in (client, other):
            assert changed(await post(who, FILE, dry=True)) == {}
    process.kill()


async def test_two_thousand(client: httpx.AsyncClient) -> None:
    services = {
        f"svc-{n}": {"every": "5m", "tags": [f"t{n % 50}"], "depends_on": [f"svc-{n + 1}"] if n % 100 else []}
        for n in range(2000)
    }
    what = {"version": 1, "defaults": {"dead_after": "3d"}, "services": services}
    took = {}
    for step, dry in (("plan", True), ("apply", False), ("again", True)):
        began = time.monotonic()
        answer = await post(client, what, dry=dry)
        took[step] = time.monotonic() - began
        assert answer["failed"] == []
        assert len(changed(answer)) == (0 if step == "again" else 2000)
    began = time.monotonic()
    exported = await export(client)
    took["export"] = time.monotonic() - began
    assert changed(await post(client, exported, dry=True)) == {}
    assert took["plan"] < 5
    assert took["again"] < 5


async def test_at_a_start_routes_wait_for_a_notifier_and_nothing_else_does(
    tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(write(FILE))
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKENS, CONFIG=str(file)).start()
    async with client_of(process, Authorization=ANA) as client:
        await eventually(lambda: _is_ready(client))
        assert (await client.get("/service/backup.db")).json()["managed_by"] == "file:registry.yaml"
        assert (await client.get("/routes")).json()["version"] == 0

        async def answer(message: Msg) -> None:
            reports = tuple(ChannelReport(name=name, kind="telegram") for name in ("ops", "ana"))
            await message.respond(ReportPage(reports=reports, total=2).model_dump_json().encode())

        await link.nc.subscribe(streams.CHANNELS, cb=answer)
        await eventually(lambda: _has_routes(client))
        assert changed(await post(client, FILE, dry=True)) == {}
    process.kill()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def _has_routes(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/routes")).json()["routes"] == FILE["routes"])
